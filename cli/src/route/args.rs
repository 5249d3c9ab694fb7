//! The definition of a route on the command line.

use clap::Args;
use picket_proto::{
    ValidationError,
    route::{EscalationFields, HoursFields, RouteFields, SpanFields},
};

/// Fields of a route, without its name and its channels. A given option replaces the value of its
/// field.
#[derive(Args, Clone, Debug)]
pub(super) struct RouteArgs {
    /// Only sites with this tag; may be repeated for any of several
    #[arg(long = "tag", value_name = "TAG", help_heading = "What is told")]
    tags: Vec<String>,
    /// Only sites with this tag and all others given so; may be repeated
    #[arg(long = "all-tags", value_name = "TAG", help_heading = "What is told")]
    all_tags: Vec<String>,
    /// Only this site (id or URL); may be repeated
    #[arg(long = "site", value_name = "SITE", help_heading = "What is told")]
    sites: Vec<String>,
    /// Only if this region is down; may be repeated for any of several
    #[arg(long = "region", value_name = "REGION", help_heading = "What is told")]
    regions: Vec<String>,
    /// Only if at least this many regions are down
    #[arg(long, value_name = "N", help_heading = "What is told")]
    min_regions: Option<i64>,
    /// Event: incident, warning, certificate, region, channel or ledger; may be repeated [default:
    /// incident]
    #[arg(long = "event", value_name = "EVENT", help_heading = "What is told")]
    events: Vec<String>,
    /// Apply only where no other route does
    #[arg(long, help_heading = "What is told")]
    fallback: bool,
    /// Time for which an incident must last to be told, up to 1d [default: none]
    #[arg(long, value_name = "DURATION", help_heading = "When it is told")]
    delay: Option<String>,
    /// Time to collect further incidents before a message, up to 1h [default: 10s for people, none
    /// for programs]
    #[arg(long, value_name = "DURATION", help_heading = "When it is told")]
    wait: Option<String>,
    /// What shares a message: route, tag or site [default: route for people, site for programs]
    #[arg(long, value_name = "GROUP", help_heading = "When it is told")]
    group_by: Option<String>,
    /// Time to the first reminder, doubled for each further one up to a day; or never [default: 1h]
    #[arg(long, value_name = "DURATION|never", help_heading = "When it is told")]
    remind: Option<String>,
    /// Further channels to tell after a time without acknowledgement, such as 15m=phone or
    /// 1h=boss,phone; may be repeated
    #[arg(long = "escalate", value_name = "AFTER=CHANNEL[,CHANNEL…]", help_heading = "When it is told")]
    escalate: Vec<String>,
    /// Hours in which the route tells, such as 'mon-fri 08:00-18:00' or '22:00-06:00'; may be
    /// repeated [default: always]
    #[arg(
        long = "active",
        value_name = "[DAYS ]FROM-TO",
        requires = "time_zone",
        help_heading = "When it is told"
    )]
    active: Vec<String>,
    /// Time zone of the hours, such as Europe/Berlin
    #[arg(long, value_name = "ZONE", requires = "active", help_heading = "When it is told")]
    time_zone: Option<String>,
    /// More incidents than this at once are told by digests [default: 20]
    #[arg(long, value_name = "N", help_heading = "When it is told")]
    storm_after: Option<i64>,
}

impl RouteArgs {
    /// Replaces the fields that are given.
    ///
    /// # Errors
    /// If an escalation or an active span has another form.
    pub(super) fn apply_to(&self, fields: &mut RouteFields) -> Result<(), ValidationError> {
        for (given, field) in [
            (&self.tags, &mut fields.tags),
            (&self.all_tags, &mut fields.all_tags),
            (&self.sites, &mut fields.sites),
            (&self.regions, &mut fields.regions),
        ] {
            if !given.is_empty() {
                field.clone_from(given);
            }
        }
        if !self.events.is_empty() {
            fields.events = Some(self.events.clone());
        }
        for (given, field) in [
            (&self.wait, &mut fields.wait),
            (&self.delay, &mut fields.delay),
            (&self.group_by, &mut fields.group_by),
            (&self.remind, &mut fields.remind),
        ] {
            if given.is_some() {
                field.clone_from(given);
            }
        }
        fields.min_regions = self.min_regions.or(fields.min_regions);
        fields.storm_after = self.storm_after.or(fields.storm_after);
        if !self.escalate.is_empty() {
            fields.escalate = self.escalate.iter().map(|text| parse_step(text)).collect::<Result<_, _>>()?;
        }
        if let Some(time_zone) = self.time_zone.clone() {
            let hours = self.active.iter().map(|text| parse_span(text)).collect::<Result<_, _>>()?;
            fields.active = Some(HoursFields { time_zone, hours });
        }
        fields.fallback |= self.fallback;
        Ok(())
    }
}

fn parse_step(text: &str) -> Result<EscalationFields, ValidationError> {
    match text.split_once('=') {
        Some((after, channels)) => Ok(EscalationFields {
            after: after.to_owned(),
            channels: channels.split(',').map(str::to_owned).collect(),
        }),
        None => {
            Err(ValidationError::new("escalate", text, "AFTER=CHANNEL, such as 15m=phone or 1h=boss,phone"))
        }
    }
}

fn parse_span(text: &str) -> Result<SpanFields, ValidationError> {
    let (days, times) = match text.trim().split_once(' ') {
        Some((days, times)) => (days.split(',').map(str::to_owned).collect(), times.trim()),
        None => (Vec::new(), text.trim()),
    };
    match times.split_once('-') {
        Some((from, to)) => Ok(SpanFields { days, from: from.to_owned(), to: to.to_owned() }),
        None => {
            let allowed = "such as 'mon-fri 08:00-18:00', 'sat,sun 10:00-16:00' or '22:00-06:00'";
            Err(ValidationError::new("active", text, allowed))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_and_hours_parse_and_other_forms_are_refused() {
        let step = parse_step("1h=boss,phone").unwrap();
        assert_eq!((step.after.as_str(), step.channels), ("1h", vec!["boss".to_owned(), "phone".to_owned()]));
        for (text, days, from) in
            [("mon-fri,sun 08:00-18:00", &["mon-fri", "sun"][..], "08:00"), (" 22:00-06:00", &[], "22:00")]
        {
            let span = parse_span(text).unwrap();
            assert_eq!(
                (&span.days[..], span.from.as_str()),
                (&days.iter().map(|day| (*day).to_owned()).collect::<Vec<_>>()[..], from)
            );
        }
        assert!(parse_step("phone").unwrap_err().expected.contains("15m=phone"));
        assert!(parse_span("mon").unwrap_err().expected.contains("mon-fri 08:00-18:00"));
    }
}
