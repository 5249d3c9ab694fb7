//! `picket demo`: `picket up` with a misbehaving target and sites that check it.

use std::path::PathBuf;

use clap::{ArgMatches, Args};
use picket_local::{AppliedSites, DEMO_TAG, Demo};
use picket_proto::{
    ValidationError,
    site_plan::{DesiredSites, PruneScope},
};
use picket_store::{Store, settings::read_settings};

use crate::{apply, connect::DEMO_DATA_DIR, error::Error, up::UpOptions};

/// Options of `picket demo`.
#[derive(Args, Clone, Debug)]
pub(crate) struct DemoOptions {
    /// Port on 127.0.0.1 of the demo target; the next port serves HTTPS
    #[arg(long, value_name = "PORT", default_value_t = 8090, value_parser = clap::value_parser!(u16).range(1..=65_534))]
    target_port: u16,
    #[command(flatten)]
    up: UpOptions,
}

pub(crate) async fn run(options: DemoOptions, matches: &ArgMatches) -> Result<u8, Error> {
    let DemoOptions { target_port, mut up } = options;
    let dir = up.data_dir.get_or_insert_with(|| PathBuf::from(DEMO_DATA_DIR)).clone();
    let demo = Demo::start(target_port, &dir).await?;
    if up.ca_file.is_none() {
        up.ca_file = Some(demo.write_ca_file(&dir)?);
    }
    let config = up.to_config(matches)?;
    let apply = async |store: &Store| {
        let summary = Some(apply_demo_sites(target_port, store).await?);
        Ok(AppliedSites { summary, notes: demo.describe_sites() })
    };
    picket_local::run_system(config, async |store: &Store| up.settings.apply(store).await, apply).await
}

/// Creates and updates the demo's sites. Sites of an earlier demo on another port are removed.
async fn apply_demo_sites(port: u16, store: &Store) -> Result<String, Error> {
    let intervals = read_settings(store).await?.intervals;
    let wanted = DesiredSites {
        regions: Vec::new(),
        sites: picket_local::demo_sites(port, intervals).into_iter().map(|site| site.spec).collect(),
    };
    if let Some(Err(why)) = wanted.sites.iter().map(|site| site.validate(intervals)).find(Result::is_err) {
        return Err(ValidationError::new("demo", why, "sites that can be checked").into());
    }
    let plan = apply::build_plan(store, "demo", &wanted, PruneScope::Tagged(DEMO_TAG)).await?;
    apply::execute_plan(store, &plan).await?;
    Ok(format!("{} of the demo", wanted.sites.len()))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use picket_local::demo_sites;
    use picket_proto::site::{IntervalRange, SiteIdentity};

    #[test]
    fn every_demo_site_is_valid_and_unique() {
        let sites = demo_sites(8_090, IntervalRange::default());

        for site in &sites {
            site.spec.validate(IntervalRange::default()).unwrap();
        }
        let identities: BTreeSet<_> = sites.iter().map(|site| SiteIdentity::of_spec(&site.spec)).collect();
        assert_eq!(identities.len(), sites.len());
    }
}
