//! The file `<data-dir>/pg_service.conf`: the database for psql and other libpq clients, so that
//! the password appears on no command line.

use std::{
    io,
    path::{Path, PathBuf},
};

use picket_servers::private_file;
use url::Url;

/// Name of the database in the file, as in `psql service=picket`.
pub(crate) const PG_SERVICE_NAME: &str = "picket";

/// URL parameters that libpq knows. Parameters of other drivers would make libpq refuse the file.
const LIBPQ_PARAMETERS: [&str; 9] =
    ["host", "hostaddr", "port", "dbname", "user", "sslmode", "sslrootcert", "sslcert", "sslkey"];

/// Path of the file.
pub(crate) fn service_path(data_dir: &Path) -> PathBuf {
    data_dir.join("pg_service.conf")
}

/// Writes the file, readable only by its owner.
pub(crate) fn write_service(data_dir: &Path, database_url: &str) -> io::Result<()> {
    let settings =
        parse_settings(database_url).ok_or_else(|| io::Error::other("DATABASE_URL is not a URL"))?;
    let lines: String = settings.iter().map(|(name, value)| format!("{name}={value}\n")).collect();
    let text = format!(
        "# Written by 'picket up'; use it with: PGSERVICEFILE=this-file psql service={PG_SERVICE_NAME}\n[{PG_SERVICE_NAME}]\n{lines}"
    );
    private_file::replace_atomically(&service_path(data_dir), &text)
}

fn parse_settings(database_url: &str) -> Option<Vec<(String, String)>> {
    let url = Url::parse(database_url).ok()?;
    let decoded = |text: &str| {
        // Percent-decoding by means of the form decoder, which would read a plus sign as a blank.
        let query = format!("text={}", text.replace('+', "%2B"));
        url::form_urlencoded::parse(query.as_bytes()).next().map(|(_, value)| value.into_owned())
    };
    let parts = [
        ("host", url.host_str().map(|host| host.trim_matches(['[', ']']).to_owned())),
        ("port", url.port().map(|port| port.to_string())),
        ("user", Some(url.username().to_owned())),
        ("password", url.password().map(str::to_owned)),
        ("dbname", Some(url.path().trim_start_matches('/').to_owned())),
    ];
    let mut settings: Vec<(String, String)> = parts
        .into_iter()
        .filter_map(|(name, value)| Some((name.to_owned(), decoded(&value?)?)))
        .filter(|(_, value)| !value.is_empty())
        .collect();
    for (name, value) in url.query_pairs().filter(|(name, _)| LIBPQ_PARAMETERS.contains(&name.as_ref())) {
        settings.retain(|(other, _)| *other != name);
        settings.push((name.into_owned(), value.into_owned()));
    }
    // A line break in a value would start another setting.
    settings.iter().all(|(_, value)| !value.contains(['\n', '\r'])).then_some(settings)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(url: &str) -> String {
        let settings = parse_settings(url).unwrap();
        settings.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn a_url_becomes_the_settings_of_a_service() {
        assert_eq!(
            lines(
                "postgres://me:p%40ss+w%25@db.example:7777/picket?sslmode=verify-full&statement-cache-capacity=0"
            ),
            "host=db.example port=7777 user=me password=p@ss+w% dbname=picket sslmode=verify-full"
        );
        assert_eq!(lines("postgres://%2Frun%2Fpg/picket?user=me"), "host=/run/pg dbname=picket user=me");
        assert!(parse_settings("postgres://me:a%0Ahost=evil@db/picket").is_none());
    }
}
