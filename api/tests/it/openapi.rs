//! The committed OpenAPI document.

use std::{env, fs, path::Path};

use crate::support::TestApi;

#[test]
fn the_committed_document_is_the_one_of_the_handlers() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("openapi.json");
    let built = picket_api::describe_api();
    if env::var_os("PICKET_UPDATE_OPENAPI").is_some() {
        fs::write(&file, &built).unwrap();
    }

    let committed = fs::read_to_string(&file).unwrap_or_default();

    assert!(committed == built, "api/openapi.json is outdated: run 'just generate'");
}

#[tokio::test]
async fn the_served_document_is_the_committed_one_and_its_version_is_3_1() {
    let api = TestApi::start().await;

    let served = api.get("/api/v1/openapi.json", None).await.json();

    assert_eq!(served["openapi"], "3.1.0");
    assert_eq!(served, serde_json::from_str::<serde_json::Value>(&picket_api::describe_api()).unwrap());
}
