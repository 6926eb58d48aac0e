//! What can be replaced while the tunnel runs: certificates, keys, trust.

use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};

use crate::tls_config::TlsConfigError;

type Renew<T> = dyn Fn(&T) -> Result<T, TlsConfigError> + Send + Sync;

/// A value that each new connection takes as it is at that moment, and keeps.
pub struct Live<T> {
    value: Arc<RwLock<Arc<T>>>,
    /// Makes the next one out of what it was made of; `None`: there is no next one.
    renew: Option<Arc<Renew<T>>>,
}

impl<T> Live<T> {
    /// `value`, and how the next one is made.
    pub(crate) fn renewable(value: T, renew: impl Fn(&T) -> Result<T, TlsConfigError> + Send + Sync + 'static) -> Self {
        Self { renew: Some(Arc::new(renew)), ..Self::from(value) }
    }

    /// As it is now.
    pub fn now(&self) -> Arc<T> {
        Arc::clone(&self.value.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// What would take its place, by the files as they are now; `None` where there are none.
    ///
    /// # Errors
    /// A file that cannot be used: then everything stays as it is.
    pub(crate) fn renewed(&self) -> Result<Option<T>, TlsConfigError> {
        self.renew.as_ref().map(|renew| renew(&self.now())).transpose()
    }

    /// For new connections from now on.
    pub(crate) fn put(&self, value: T) {
        *self.value.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(value);
    }
}

impl<T> From<T> for Live<T> {
    fn from(value: T) -> Self {
        Self { value: Arc::new(RwLock::new(Arc::new(value))), renew: None }
    }
}

impl<T> Clone for Live<T> {
    fn clone(&self) -> Self {
        Self { value: Arc::clone(&self.value), renew: self.renew.clone() }
    }
}

impl<T: fmt::Debug> fmt::Debug for Live<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.now().fmt(f)
    }
}
