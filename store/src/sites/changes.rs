//! Changes to any number of sites in a single transaction.

use std::{collections::HashMap, time::Duration};

use picket_proto::{RegionName, SiteId, site::SiteSpec, site_plan::SitePlan};
use sqlx::PgConnection;

use super::{
    INSERT_SITE_SQL, UPDATE_SITE_SQL, columns::bind_definition, map_constraint_error, versions::SiteVersion,
};
use crate::{Error, Store, regions};

/// Changes to any number of sites.
#[derive(Clone, Debug, Default)]
pub struct SiteChanges {
    /// Regions to add; existing regions are ignored.
    pub regions: Vec<RegionName>,
    /// Sites to add.
    pub inserts: Vec<SiteSpec>,
    /// Sites to redefine.
    pub updates: Vec<(SiteId, SiteSpec)>,
    /// Sites to delete; missing sites are ignored, unless a version is expected.
    pub deletes: Vec<SiteId>,
    /// Versions that sites to redefine and to delete must have. A site without an entry may have
    /// any version.
    pub expected: HashMap<SiteId, SiteVersion>,
}

impl From<&SitePlan> for SiteChanges {
    fn from(plan: &SitePlan) -> Self {
        Self {
            regions: plan.regions.clone(),
            inserts: plan.add.clone(),
            updates: plan.change.iter().map(|change| (change.id, change.spec.clone())).collect(),
            deletes: plan.remove.iter().map(|(id, _)| *id).collect(),
            expected: HashMap::new(),
        }
    }
}

/// Applies all `changes` or none; returns the ids of the added sites in their order.
///
/// # Errors
/// If a change is rejected, a site has another version than expected, or the database cannot be
/// reached in time.
pub async fn apply_changes(store: &Store, changes: &SiteChanges) -> Result<Vec<SiteId>, Error> {
    // A few thousand sites take a second; the server's own limit applies to each statement.
    const UPDATE_TIMEOUT: Duration = Duration::from_secs(300);
    let work = async {
        let mut transaction = store.pool.begin().await?;
        let applied = write_changes(&mut transaction, changes).await?;
        match applied {
            Ok(_) => transaction.commit().await?,
            Err(_) => transaction.rollback().await?,
        }
        Ok(applied)
    };
    let applied = store.with_timeout(UPDATE_TIMEOUT, "update the sites", work).await;
    applied.map_err(map_constraint_error)?
}

/// Writes the `changes` within a transaction, which the caller undoes after a refusal.
pub(crate) async fn write_changes(
    transaction: &mut PgConnection,
    changes: &SiteChanges,
) -> Result<Result<Vec<SiteId>, Error>, sqlx::Error> {
    for region in &changes.regions {
        sqlx::query(regions::ADD_REGION_SQL).bind(region.as_str()).execute(&mut *transaction).await?;
    }
    // Locks the rows in one order, which prevents deadlocks, and compares the versions meanwhile.
    if let Some(id) = find_changed_site(transaction, &changes.expected).await? {
        return Ok(Err(Error::SiteChanged(id)));
    }
    // Deletes come first, so that a new site may reuse the key of a deleted one.
    let removed: Vec<i64> = changes.deletes.iter().map(|id| id.0).collect();
    sqlx::query("DELETE FROM picket.sites WHERE id = ANY ($1)")
        .bind(removed)
        .execute(&mut *transaction)
        .await?;
    for (id, spec) in &changes.updates {
        let updated = bind_definition(sqlx::query_scalar(UPDATE_SITE_SQL.as_str()), spec).bind(id.0);
        if updated.fetch_optional(&mut *transaction).await?.is_none() {
            return Ok(Err(Error::SiteNotFound(*id)));
        }
    }
    let mut added = Vec::with_capacity(changes.inserts.len());
    for spec in &changes.inserts {
        let inserted = bind_definition(sqlx::query_scalar(INSERT_SITE_SQL.as_str()), spec);
        added.push(SiteId(inserted.fetch_one(&mut *transaction).await?));
    }
    Ok(Ok(added))
}

/// Locks the sites in `expected` and returns one that is missing or has another version.
async fn find_changed_site(
    transaction: &mut PgConnection,
    expected: &HashMap<SiteId, SiteVersion>,
) -> Result<Option<SiteId>, sqlx::Error> {
    if expected.is_empty() {
        return Ok(None);
    }
    let ids: Vec<i64> = expected.keys().map(|id| id.0).collect();
    let rows: Vec<(i64, String)> = sqlx::query_as(
        "SELECT id, version::text FROM picket.sites WHERE id = ANY ($1) ORDER BY id FOR NO KEY UPDATE",
    )
    .bind(ids)
    .fetch_all(transaction)
    .await?;
    let found: HashMap<SiteId, String> =
        rows.into_iter().map(|(id, version)| (SiteId(id), version)).collect();
    let is_changed = |(id, version): &(&SiteId, &SiteVersion)| {
        found.get(*id).is_none_or(|found| *found != version.to_string())
    };
    Ok(expected.iter().filter(is_changed).map(|(id, _)| *id).min())
}
