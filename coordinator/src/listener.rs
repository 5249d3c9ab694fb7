//! Listens to what the database calls out, and wakes who should look.
//!
//! For speed only: whoever is woken also looks by itself. Bound: calls within [`TOGETHER`] are one. Loss: none that
//! polling does not make up for.

use std::time::Duration;

use picket_runtime::{Backoff, Chain};
use picket_store::{
    Store,
    changes::{Call, Listener},
};
use ractor::ActorRef;
use tokio::time::{Instant, sleep, timeout};
use tracing::debug;

use crate::{catalog, lease, provision};

/// Calls that come within this are one.
const TOGETHER: Duration = Duration::from_millis(50);
/// The driver notices no connection that died silently, so that it is made anew now and then.
const RENEW: Duration = Duration::from_secs(600);

/// Whom to wake.
#[derive(Clone)]
pub(crate) struct Listening {
    pub(crate) store: Store,
    pub(crate) catalog: ActorRef<catalog::Msg>,
    pub(crate) lease: ActorRef<lease::Msg>,
    pub(crate) provision: ActorRef<provision::Msg>,
}

impl Listening {
    /// Listens until those it wakes are gone.
    pub(crate) async fn run(self) {
        let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(5));
        loop {
            match Listener::connect(&self.store).await {
                Ok(listener) => {
                    backoff.reset();
                    if timeout(RENEW, self.listen(listener)).await.is_ok_and(|gone| gone) {
                        return;
                    }
                }
                Err(error) => {
                    debug!(error = %Chain(&error), "cannot listen to the database; polling goes on")
                }
            }
            if self.wake(true, true).is_err() {
                return;
            }
            sleep(backoff.next_wait()).await;
        }
    }

    /// Says whether those to wake are gone; returns also when the connection is.
    async fn listen(&self, mut listener: Listener) -> bool {
        loop {
            let (mut sites, mut leases) = (false, false);
            let mut call = listener.next().await;
            loop {
                match call {
                    Ok(Call::Sites) => sites = true,
                    Ok(Call::Leases) => leases = true,
                    Ok(Call::Anything) => (sites, leases) = (true, true),
                    Err(_) => return false,
                }
                match timeout(TOGETHER, listener.next()).await {
                    Ok(next) if !leases => call = next,
                    _ => break,
                }
            }
            if self.wake(sites, leases).is_err() {
                return true;
            }
        }
    }

    fn wake(&self, sites: bool, leases: bool) -> Result<(), ()> {
        if leases {
            self.lease.cast(lease::Msg::Released).map_err(|_| ())?;
        }
        if sites {
            self.catalog.cast(catalog::Msg::Called).map_err(|_| ())?;
            self.provision.cast(provision::Msg::Called(Instant::now())).map_err(|_| ())?;
        }
        Ok(())
    }
}
