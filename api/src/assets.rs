//! Files of the web UI, compiled into the program. Their address contains a hash of all of them, so that browsers may keep
//! them for ever and a new build is seen at once.

use std::{fmt::Write, sync::LazyLock};

use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};
use sha2::{Digest, Sha256};

use crate::extract::ApiPath;

struct Asset {
    name: &'static str,
    media_type: &'static str,
    content: &'static [u8],
}

macro_rules! assets {
    ($($name:literal: $media_type:literal,)*) => {
        &[$(Asset { name: $name, media_type: $media_type, content: include_bytes!(concat!("../assets/", $name)) }),*]
    };
}

const ASSETS: &[Asset] = assets! {
    "picket.css": "text/css; charset=utf-8",
    "page.js": "text/javascript; charset=utf-8",
    "check.js": "text/javascript; charset=utf-8",
    "charts.js": "text/javascript; charset=utf-8",
    "live.js": "text/javascript; charset=utf-8",
    "favicon.svg": "image/svg+xml",
};

/// Route of [`serve_asset`].
pub(crate) const ASSET_ROUTE: &str = "/assets/{version}/{name}";

static VERSION: LazyLock<String> = LazyLock::new(|| {
    let mut hasher = Sha256::new();
    for asset in ASSETS {
        hasher.update(asset.name);
        hasher.update(asset.content);
    }
    hasher.finalize().iter().take(8).fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
});

/// Path below which the files are, without a slash at its end.
pub(crate) fn asset_path() -> String {
    format!("/assets/{}", *VERSION)
}

/// Serves a file. A file of another build does not exist here: its page would not fit this one.
pub(crate) async fn serve_asset(ApiPath((version, name)): ApiPath<(String, String)>) -> Response {
    let asset = ASSETS.iter().find(|asset| version == *VERSION && asset.name == name);
    let Some(asset) = asset else {
        return (StatusCode::NOT_FOUND, "no such file").into_response();
    };
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static(asset.media_type)),
        (header::CACHE_CONTROL, HeaderValue::from_static("public, max-age=31536000, immutable")),
    ];
    (headers, asset.content).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modules_are_small_and_load_nothing() {
        for asset in ASSETS.iter().filter(|asset| asset.name.ends_with(".js")) {
            assert!(asset.content.len() <= 3 * 1024, "{} has {} bytes", asset.name, asset.content.len());
        }
        for asset in ASSETS {
            let text = std::str::from_utf8(asset.content).unwrap().replace("http://www.w3.org/2000/svg", "");
            assert!(
                !text.contains("http://") && !text.contains("https://"),
                "{} has a foreign host",
                asset.name
            );
        }
    }

    #[tokio::test]
    async fn assets_are_immutable_and_other_versions_do_not_exist() {
        let request = |version: &str, name: &str| serve_asset(ApiPath((version.to_owned(), name.to_owned())));
        let found = request(&VERSION, "picket.css").await;
        assert_eq!(found.status(), StatusCode::OK);
        assert!(found.headers()[header::CACHE_CONTROL].to_str().unwrap().contains("immutable"));
        assert_eq!(request("0000000000000000", "picket.css").await.status(), StatusCode::NOT_FOUND);
        assert_eq!(request(&VERSION, "../Cargo.toml").await.status(), StatusCode::NOT_FOUND);
    }
}
