//! The signer, shared: it writes files and computes signatures, so it runs off the async threads.

use std::sync::{Arc, Mutex, PoisonError};

use crate::signer::Signer;

/// The signer of this workspace. Clones share it.
#[derive(Clone)]
pub struct Signing(Arc<Mutex<Signer>>);

impl Signing {
    /// Shares `signer`.
    pub fn new(signer: Signer) -> Self {
        Self(Arc::new(Mutex::new(signer)))
    }

    /// Runs `work` with the signer. Blocks while another does.
    pub fn blocking<R>(&self, work: impl FnOnce(&mut Signer) -> R) -> R {
        // A panic in the signer leaves it as it was: it changes its state last.
        work(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Runs `work` with the signer on a thread that may block.
    pub async fn run<R: Send + 'static>(&self, work: impl FnOnce(&mut Signer) -> R + Send + 'static) -> R {
        let signing = self.clone();
        let task = tokio::task::spawn_blocking(move || signing.blocking(work));
        match task.await {
            Ok(result) => result,
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        }
    }
}
