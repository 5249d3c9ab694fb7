//! Startup message of `up`: addresses, services and the next commands.

use std::path::{Path, PathBuf};

use picket_runtime::{
    connect::parse_host_port,
    console::{print_error, print_line},
};
use picket_store::{Store, api_tokens, regions, sessions};

use crate::{
    config::Config,
    error::Error,
    log, secrets_file,
    servers::{ServerKind, Servers},
    service_file::{self, PG_SERVICE_NAME},
    services::WebAddress,
};

pub(crate) async fn print_banner(
    config: &Config,
    servers: &Servers,
    store: &Store,
    sites: Option<&str>,
    web: Option<&WebAddress>,
) -> Result<(), Error> {
    let dir = config.data_dir.as_path();
    let all = regions::list_regions(store).await?;
    let here: Vec<&str> = config.regions.iter().map(|region| region.as_str()).collect();
    let schedules: i64 = all.iter().map(|region| region.schedules).sum();
    let origin = |which| {
        if servers.is_managed(which) { "" } else { "  (external)" }
    };
    let database = match parse_host_port(&servers.database_url(), 5432) {
        Some((host, port)) => format!("{host}:{port}"),
        None => "(a local socket)".to_owned(),
    };
    let parts = [
        (config.coordinator.is_none(), "coordinator".to_owned()),
        (config.sink.is_none(), "sink".to_owned()),
        (config.notifier.is_none(), "notifier".to_owned()),
        (web.is_none(), "API".to_owned()),
        (config.probers.is_empty(), format!("probers in {}", here.join(", "))),
    ];
    let parts: Vec<String> =
        parts.into_iter().filter(|(left_out, _)| !left_out).map(|(_, part)| part).collect();

    print_line("picket is up; Ctrl-C stops all");
    print_line(format_args!(
        "  NATS      {}{}",
        strip_credentials(&servers.nats_url()),
        origin(ServerKind::Nats)
    ));
    print_line(format_args!("  Postgres  {database}{}", origin(ServerKind::Postgres)));
    print_line(format_args!(
        "  here      {}",
        if parts.is_empty() { "no services".to_owned() } else { parts.join(", ") }
    ));
    print_line(format_args!(
        "  sites     {schedules} schedules{}",
        sites.map(|sites| format!("; {sites}")).unwrap_or_default()
    ));
    if let Some(web) = web {
        let link = describe_sign_in(web, store).await?;
        print_line(format_args!("  web       {link}"));
    }
    print_line(format_args!("  data      {}", dir.display()));
    print_line(format_args!("  logs      {}", dir.join(log::LOG_FILE).display()));
    let secrets = secrets_file::secrets_path(dir);
    if secrets.exists() {
        print_line(format_args!("  secrets   {}", secrets.display()));
    }
    let picket = program_name();
    let region = here.first().copied().unwrap_or("any");
    print_line("next, in another terminal:");
    print_line(format_args!("  {picket} site add https://example.com"));
    print_line(format_args!("  {picket} status"));
    print_line(format_args!("  {picket} tail"));
    let service = service_file::service_path(dir);
    if service.exists() {
        print_line(format_args!(
            "  PGSERVICEFILE={} psql service={PG_SERVICE_NAME} -c 'SELECT * FROM report.checks LIMIT 10'",
            service.display()
        ));
    }
    print_line(format_args!(
        "  nats -s {} req picket.check.{region} '{{\"url\":\"https://example.com\"}}'",
        strip_credentials(&servers.nats_url())
    ));
    // On an external bus, other probers may run anywhere, so a region without a local prober is no
    // problem.
    let ours = servers.is_managed(ServerKind::Nats);
    for region in all.iter().filter(|region| ours && !here.contains(&region.name.as_str())) {
        print_error(format_args!(
            "region '{}' has no prober here; its {} schedules wait for a prober (--regions, or: picket region remove {0})",
            region.name, region.schedules
        ));
    }
    Ok(())
}

/// The link that signs in to the web UI once, and whether it is needed.
async fn describe_sign_in(web: &WebAddress, store: &Store) -> Result<String, Error> {
    let link = sessions::create_sign_in_link(store).await?;
    let note = match web.may_be_open && !api_tokens::has_tokens(store).await? {
        true => {
            "signs in once, within 10 minutes; open to all users of this machine until the first 'picket token create'"
        }
        false => "signs in once, within 10 minutes",
    };
    Ok(format!("{}/sign-in?link={}  ({note})", web.url, link.reveal()))
}

/// The command that starts this program: its name if the `PATH` leads to it, its path otherwise.
fn program_name() -> String {
    let Ok(own) = std::env::current_exe() else {
        return "picket".to_owned();
    };
    let on_path = std::env::var_os("PATH").is_some_and(|path| {
        std::env::split_paths(&path)
            .map(|dir| dir.join("picket"))
            .find(|candidate| candidate.exists())
            .and_then(|found| found.canonicalize().ok())
            == Some(own.clone())
    });
    if on_path {
        return "picket".to_owned();
    }
    let near: Option<PathBuf> =
        std::env::current_dir().ok().and_then(|here| own.strip_prefix(here).ok().map(Path::to_owned));
    match near {
        // A bare name would be searched on the `PATH`.
        Some(near) if near.components().count() == 1 => format!("./{}", near.display()),
        Some(near) => near.display().to_string(),
        None => own.display().to_string(),
    }
}

/// A URL without user and password, which must not appear on a screen.
fn strip_credentials(url: &str) -> String {
    let bare = |server: &str| match server.split_once("://") {
        Some((scheme, rest)) => {
            format!("{scheme}://{}", rest.rsplit_once('@').map_or(rest, |(_, host)| host))
        }
        None => server.rsplit_once('@').map_or(server, |(_, host)| host).to_owned(),
    };
    url.split(',').map(bare).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_redacted() {
        assert_eq!(
            strip_credentials("nats://me:secret@host:4222,nats://other:1"),
            "nats://host:4222,nats://other:1"
        );
        assert_eq!(strip_credentials("me:secret@host:4222"), "host:4222");
    }
}
