//! A repository in an S3 bucket, path style, over http or https.

use std::{fmt, fs, sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::TryStreamExt as _;
use object_store::{
    BackoffConfig, Certificate, ClientOptions, ObjectStore as _, ObjectStoreExt as _, PutPayload, RetryConfig,
    aws::{AmazonS3, AmazonS3Builder},
    path::Path,
};
use tokio::runtime::Runtime;

use super::{FileKind, MOST_BESIDE, StoreError};
use crate::mover::{authorities, job::Place};

/// A refused connection must be told within seconds; a hiccup must not end a capture of hours.
const RETRY_SECONDS: u64 = 8;
const CONNECT_SECONDS: u64 = 5;
/// One request carries a pack of up to some tens of MB, maybe over a slow line.
const REQUEST_SECONDS: u64 = 600;

/// A repository in an S3 bucket.
pub struct S3 {
    client: Arc<AmazonS3>,
    runtime: Runtime,
    prefix: String,
    location: String,
}

impl fmt::Debug for S3 {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The client holds the access key.
        write!(formatter, "S3({})", self.location)
    }
}

impl S3 {
    pub(super) fn at(place: &Place) -> Result<Self, StoreError> {
        let Place::S3 { endpoint, bucket, prefix, region, access_key_id, secret_access_key, certificate_authority } =
            place
        else {
            return Err(StoreError::Missing { object: "the S3 endpoint".to_owned() });
        };
        let location = format!("{}/{bucket}/{prefix}", endpoint.trim_end_matches('/'));
        let refused = |source: Box<dyn std::error::Error + Send + Sync>| StoreError::Refused {
            operation: "use",
            object: location.clone(),
            source,
        };
        let mut options = ClientOptions::new()
            .with_allow_http(endpoint.starts_with("http://"))
            // Nothing is signed there, and an image that holds only this program has no authorities to load.
            .with_no_system_certificates(endpoint.starts_with("http://"))
            .with_connect_timeout(Duration::from_secs(CONNECT_SECONDS))
            .with_timeout(Duration::from_secs(REQUEST_SECONDS));
        let carried = if endpoint.starts_with("https://") { authorities::carried() } else { None };
        for path in certificate_authority.iter().chain(&carried) {
            let pem = fs::read(path).map_err(|error| StoreError::Refused {
                operation: "read the certificate authority",
                object: path.display().to_string(),
                source: Box::new(error),
            })?;
            for certificate in Certificate::from_pem_bundle(&pem).map_err(|error| refused(Box::new(error)))? {
                options = options.with_root_certificate(certificate);
            }
        }
        let client = AmazonS3Builder::new()
            .with_endpoint(endpoint.trim_end_matches('/'))
            .with_bucket_name(bucket)
            .with_region(region)
            .with_access_key_id(access_key_id.expose())
            .with_secret_access_key(secret_access_key.expose())
            .with_virtual_hosted_style_request(false)
            .with_client_options(options)
            .with_retry(RetryConfig {
                backoff: BackoffConfig {
                    init_backoff: Duration::from_millis(200),
                    max_backoff: Duration::from_secs(2),
                    base: 2.0,
                },
                max_retries: 8,
                retry_timeout: Duration::from_secs(RETRY_SECONDS),
            })
            .build()
            .map_err(|error| refused(Box::new(error)))?;
        // Packs are uploaded from several threads at once; two workers carry all their requests.
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .map_err(|error| refused(Box::new(error)))?;
        Ok(Self { client: Arc::new(client), runtime, prefix: prefix.trim_matches('/').to_owned(), location })
    }

    pub(super) fn location(&self) -> String {
        self.location.clone()
    }

    pub(super) fn is_vacant(&self) -> Result<bool, StoreError> {
        let prefix = Path::from(self.prefix.clone());
        let first = self.runtime.block_on(async { self.client.list(Some(&prefix)).try_next().await });
        first.map(|first| first.is_none()).map_err(|error| self.refused("list", &self.location, error))
    }

    pub(super) fn beside(&self, prefix: &str) -> Result<Vec<String>, StoreError> {
        let above = Path::from(self.prefix.rsplit_once('/').map_or("", |(above, _)| above));
        let listed = self.runtime.block_on(self.client.list_with_delimiter(Some(&above)));
        let listed = listed.map_err(|error| self.refused("list", above.as_ref(), error))?;
        let names = listed.common_prefixes.iter().filter_map(|path| path.filename());
        let mut beside = Vec::new();
        for name in names.filter(|name| name.starts_with(prefix)).take(MOST_BESIDE) {
            let config = above.clone().join(name).join("config");
            match self.runtime.block_on(self.client.head(&config)) {
                Ok(_) => beside.push(name.to_owned()),
                Err(object_store::Error::NotFound { .. }) => {}
                Err(error) => return Err(self.refused("read", config.as_ref(), error)),
            }
        }
        Ok(beside)
    }

    pub(super) fn list(&self, kind: FileKind) -> Result<Vec<(String, u64)>, StoreError> {
        if kind == FileKind::Config {
            let path = self.path(kind, "");
            return match self.runtime.block_on(self.client.head(&path)) {
                Ok(meta) => Ok(vec![(String::new(), meta.size)]),
                // A missing bucket answers like a missing object to HEAD; only a listing tells them apart.
                Err(object_store::Error::NotFound { .. }) => self.is_vacant().map(|_| Vec::new()),
                Err(error) => Err(self.refused("read", path.as_ref(), error)),
            };
        }
        let prefix = Path::from(format!("{}/{}", self.prefix, kind.directory()));
        let listed: Result<Vec<_>, _> = self.runtime.block_on(self.client.list(Some(&prefix)).try_collect());
        let listed = listed.map_err(|error| self.refused("list", prefix.as_ref(), error))?;
        Ok(listed.into_iter().filter_map(|meta| Some((meta.location.filename()?.to_owned(), meta.size))).collect())
    }

    pub(super) fn read(&self, kind: FileKind, id: &str) -> Result<Bytes, StoreError> {
        let path = self.path(kind, id);
        self.runtime
            .block_on(async { self.client.get(&path).await?.bytes().await })
            .map_err(|error| self.refused("read", path.as_ref(), error))
    }

    pub(super) fn read_range(&self, kind: FileKind, id: &str, offset: u64, length: u64) -> Result<Bytes, StoreError> {
        let path = self.path(kind, id);
        let range = offset..offset.saturating_add(length);
        let content = self
            .runtime
            .block_on(self.client.get_range(&path, range))
            .map_err(|error| self.refused("read", path.as_ref(), error))?;
        if content.len() as u64 != length {
            return Err(StoreError::Refused {
                operation: "read",
                object: path.to_string(),
                source: format!("the object is shorter than the index says ({} of {length} bytes)", content.len())
                    .into(),
            });
        }
        Ok(content)
    }

    pub(super) fn write(&self, kind: FileKind, id: &str, content: Vec<Bytes>) -> Result<(), StoreError> {
        let path = self.path(kind, id);
        self.runtime
            .block_on(self.client.put(&path, PutPayload::from_iter(content)))
            .map(|_| ())
            .map_err(|error| self.refused("write", path.as_ref(), error))
    }

    pub(super) fn remove(&self, kind: FileKind, id: &str) -> Result<(), StoreError> {
        let path = self.path(kind, id);
        match self.runtime.block_on(self.client.delete(&path)) {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(self.refused("remove", path.as_ref(), error)),
        }
    }

    fn path(&self, kind: FileKind, id: &str) -> Path {
        Path::from(format!("{}/{}", self.prefix, kind.path(id)))
    }

    fn refused(&self, operation: &'static str, object: &str, error: object_store::Error) -> StoreError {
        let object = format!("{object} at {}", self.location);
        let text = error.to_string();
        let source = Box::new(error);
        if text.contains("NoSuchBucket") {
            return StoreError::NoBucket { location: self.location.clone() };
        }
        if let object_store::Error::NotFound { .. } = *source {
            return StoreError::Missing { object };
        }
        let denied = matches!(
            *source,
            object_store::Error::PermissionDenied { .. } | object_store::Error::Unauthenticated { .. }
        );
        if denied {
            StoreError::PermissionDenied { operation, object, source }
        } else if text.contains("XMinioStorageFull") || text.contains("QuotaExceeded") {
            StoreError::NoSpace { operation, object, source }
        } else if matches!(*source, object_store::Error::Generic { .. }) {
            StoreError::Unreachable { operation, object, source }
        } else {
            StoreError::Refused { operation, object, source }
        }
    }
}
