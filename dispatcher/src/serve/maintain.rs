//! What has to be done now and then: metadata near its expiry is signed again, what nobody needs is cleared away.

use std::time::Duration;

use tokio::task::JoinHandle;

use crate::registry::Registry;
use crate::signer::Refreshed;
use crate::signing::Signing;

/// More often than daily, so that a failure is made good long before anything expires.
const EVERY: Duration = Duration::from_secs(3600);

/// Starts the task; its first round is at once, because the dispatcher may have been off for long.
pub fn start(signing: Signing, registry: Registry) -> JoinHandle<()> {
    tokio::spawn(async move {
        let mut every = tokio::time::interval(EVERY);
        every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            every.tick().await;
            match signing.run(|signer| signer.refresh(crate::now())).await {
                Ok(Refreshed::Unchanged) => {}
                Ok(refreshed) => tracing::info!(?refreshed, "metadata signed again"),
                Err(error) => tracing::error!(%error, "metadata could not be signed again; it expires in some days"),
            }
            if let Err(error) = registry.clear_away().await {
                tracing::warn!(%error, "what nobody needs could not be cleared away");
            }
        }
    })
}
