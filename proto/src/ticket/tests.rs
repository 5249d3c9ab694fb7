use std::time::Duration;

use super::*;
use crate::{Shard, SiteId};

/// The ticket of [`claims`] in region `eu` under key 1.
const KNOWN: &str = "0001fa15b87b276e7ec3f7f2b9f3c4b7043b";

fn installation() -> InstallationId {
    "6b0f4f6a-7e57-4c1e-9a52-0d6f4b1c2a33".parse().unwrap()
}

fn key(id: TicketKeyId) -> TicketKey {
    TicketKey { id, secret: vec![id.to_be_bytes()[1]; 32], retired_at: None, is_usable: true }
}

fn tickets(keys: &[TicketKey]) -> Tickets {
    Tickets::new(installation(), true, keys)
}

fn moment(seconds: i64) -> Timestamp {
    Timestamp::from_millis(1_795_176_000_000 + seconds * 1_000)
}

fn claims(region: &RegionName) -> TicketClaims<'_> {
    let tick = ScheduledTick {
        site: SiteId(42),
        shard: Shard(7),
        kind: CheckKind::Scheduled,
        scheduled_at: moment(0),
        expires_at: moment(60),
    };
    TicketClaims { tick, region }
}

#[test]
fn a_ticket_is_valid_for_its_own_check_alone() {
    let (eu, us): (RegionName, RegionName) = ("eu".parse().unwrap(), "us".parse().unwrap());
    let tickets = tickets(&[key(1)]);
    let given = claims(&eu);
    let ticket = tickets.issue_ticket(&given).unwrap().to_string();

    assert_eq!(tickets.verify_ticket(Some(&ticket), &given), Ok(()));
    for other in [
        TicketClaims { tick: ScheduledTick { site: SiteId(43), ..given.tick }, ..given },
        TicketClaims { tick: ScheduledTick { shard: Shard(8), ..given.tick }, ..given },
        TicketClaims { region: &us, ..given },
        TicketClaims { tick: ScheduledTick { kind: CheckKind::Confirm, ..given.tick }, ..given },
        TicketClaims { tick: ScheduledTick { scheduled_at: moment(1), ..given.tick }, ..given },
        TicketClaims { tick: ScheduledTick { expires_at: moment(61), ..given.tick }, ..given },
    ] {
        assert_eq!(tickets.verify_ticket(Some(&ticket), &other), Err(TicketError::MacMismatch), "{other:?}");
    }
    let elsewhere = Tickets::new("00000000-0000-4000-8000-000000000000".parse().unwrap(), true, &[key(1)]);
    assert_eq!(elsewhere.verify_ticket(Some(&ticket), &given), Err(TicketError::MacMismatch));
}

#[test]
fn a_ticket_with_any_digit_changed_is_refused() {
    let eu: RegionName = "eu".parse().unwrap();
    let tickets = tickets(&[key(1)]);
    let ticket = tickets.issue_ticket(&claims(&eu)).unwrap().to_string();

    for place in 0..ticket.len() {
        let mut other = ticket.clone().into_bytes();
        other[place] = if other[place] == b'0' { b'1' } else { b'0' };
        let other = String::from_utf8(other).unwrap();
        assert!(tickets.verify_ticket(Some(&other), &claims(&eu)).is_err(), "{other}");
    }
    for other in ["", "x", &ticket[1..], &ticket.to_uppercase(), &format!("{ticket}0"), &"é".repeat(18)] {
        assert_eq!(tickets.verify_ticket(Some(other), &claims(&eu)), Err(TicketError::Malformed), "{other}");
    }
}

#[test]
fn tickets_are_deterministic_across_processes() {
    let eu: RegionName = "eu".parse().unwrap();
    let one = tickets(&[key(1)]).issue_ticket(&claims(&eu)).unwrap();

    assert_eq!(tickets(&[key(1)]).issue_ticket(&claims(&eu)).unwrap(), one);
    // Computed from the documented encoding with another implementation of HMAC-SHA256.
    assert_eq!(one.to_string(), KNOWN);
}

#[test]
fn a_new_key_is_used_once_all_processes_have_it_and_the_old_one_is_valid_until_retired() {
    let eu: RegionName = "eu".parse().unwrap();
    let first = tickets(&[key(1)]).issue_ticket(&claims(&eu)).unwrap().to_string();
    let fresh = TicketKey { is_usable: false, ..key(2) };

    let both = tickets(&[key(1), fresh]);
    assert_eq!(both.issue_ticket(&claims(&eu)).unwrap().to_string(), first);
    let both = tickets(&[key(1), key(2)]);
    let second = both.issue_ticket(&claims(&eu)).unwrap().to_string();
    assert_ne!(second, first);
    assert_eq!(both.verify_ticket(Some(&first), &claims(&eu)), Ok(()));

    let retired = |at| TicketKey { retired_at: Some(at), is_usable: false, ..key(1) };
    let later = tickets(&[retired(moment(0)), key(2)]);
    assert_eq!(later.verify_ticket(Some(&first), &claims(&eu)), Ok(()));
    let earlier = tickets(&[retired(moment(0).saturating_sub(Duration::from_secs(1))), key(2)]);
    assert_eq!(earlier.verify_ticket(Some(&first), &claims(&eu)), Err(TicketError::KeyRetired(1)));
    assert_eq!(tickets(&[key(2)]).verify_ticket(Some(&first), &claims(&eu)), Err(TicketError::UnknownKey(1)));
}

#[test]
fn a_result_without_a_ticket_is_refused_only_where_tickets_are_required() {
    let eu: RegionName = "eu".parse().unwrap();
    let optional = Tickets::new(installation(), false, &[key(1)]);

    assert_eq!(tickets(&[key(1)]).verify_ticket(None, &claims(&eu)), Err(TicketError::Missing));
    assert_eq!(optional.verify_ticket(None, &claims(&eu)), Ok(()));
    let forged = Ticket { key: 1, mac: [0; Ticket::MAC_BYTES] }.to_string();
    assert_eq!(optional.verify_ticket(Some(&forged), &claims(&eu)), Err(TicketError::MacMismatch));
    assert_eq!(Tickets::new(installation(), true, &[]).issue_ticket(&claims(&eu)), None);
}

/// Prints the cost of a ticket: `cargo test --release -p picket-proto -- --ignored --nocapture
/// measure_ticket_cost`.
#[test]
#[ignore = "a measurement"]
fn measure_ticket_cost() {
    const NUMBER: u32 = 1_000_000;
    let region: RegionName = "eu-west".parse().unwrap();
    let tickets = tickets(&[key(1)]);
    let mut text = String::new();
    let measure = |what: &str, work: &mut dyn FnMut(i64)| {
        #[expect(clippy::disallowed_methods, reason = "no async here, and a measurement")]
        let began = std::time::Instant::now();
        (0..i64::from(NUMBER)).for_each(work);
        eprintln!("{what}: {} ns", (began.elapsed() / NUMBER).as_nanos());
    };
    measure("render", &mut |site| {
        text.clear();
        let claims = claims(&region);
        let tick = ScheduledTick { site: SiteId(site), ..claims.tick };
        tickets.render_fields(&TicketClaims { tick, ..claims }, &mut text);
        std::hint::black_box(&text);
    });
    let ticket = tickets.issue_ticket(&claims(&region)).unwrap().to_string();
    measure("verify", &mut |_| {
        std::hint::black_box(tickets.verify_ticket(Some(&ticket), &claims(&region))).unwrap();
    });
}
