//! The records of restores, each a ConfigMap of its own that is made before anything is done.

use jiff::Timestamp;
use kube::api::ListParams;

use super::{Address, MOST_RUNS, RestoreRecord, Store, StoreError, codec, is, post};
use crate::{
    engine::kubernetes::{
        labels::{self, Kind},
        names,
    },
    policy::PolicyName,
};

impl Store {
    /// Announces a restore. False: this document with this content is known already.
    ///
    /// # Errors
    /// It cannot be written.
    pub async fn announce_restore(&self, restore: &RestoreRecord) -> Result<bool, StoreError> {
        let address = restore_address(&restore.name, &restore.content);
        match self.maps().create(&post(), &self.fresh(&address, restore)?).await {
            Ok(_) => Ok(true),
            Err(error) if is(&error, kube::core::Status::is_already_exists) => Ok(false),
            Err(error) => Err(self.failed("creating", &address, error)),
        }
    }

    /// One restore.
    ///
    /// # Errors
    /// It cannot be read.
    pub async fn restore(&self, name: &PolicyName, content: &str) -> Result<Option<RestoreRecord>, StoreError> {
        Ok(self.read(&restore_address(name, content)).await?.map(|(record, _)| record))
    }

    /// The restores of a policy's points that have not ended.
    ///
    /// # Errors
    /// They cannot be read.
    pub async fn restores_under_way(&self, policy: &PolicyName) -> Result<Vec<RestoreRecord>, StoreError> {
        let mut restores = self.restores().await?;
        restores.retain(|restore| restore.policy == *policy && restore.report.finished_at.is_none());
        Ok(restores)
    }

    async fn restores(&self) -> Result<Vec<RestoreRecord>, StoreError> {
        let all = Address { name: "of restores".to_owned(), kind: Kind::Restore, policy: None };
        let selector = format!("{},{}={}", labels::managed(), labels::KIND, Kind::Restore.text());
        let list = self.maps().list(&ListParams::default().labels(&selector)).await;
        let list = list.map_err(|error| self.failed("listing", &all, error))?;
        let mut restores = Vec::new();
        for map in &list.items {
            let name = map.metadata.name.clone().unwrap_or_default();
            restores.push(codec::read::<RestoreRecord>(map).map_err(|source| self.content(&name, source))?);
        }
        Ok(restores)
    }

    /// Changes the record of a restore.
    ///
    /// # Errors
    /// It is not there, or cannot be read or written.
    pub async fn change_restore<T>(
        &self,
        name: &PolicyName,
        content: &str,
        change: impl FnMut(&mut RestoreRecord) -> T + Send,
    ) -> Result<T, StoreError> {
        self.change(&restore_address(name, content), || None, change).await
    }

    /// Ends a restore: its report, and the history.
    ///
    /// # Errors
    /// It cannot be read or written.
    pub async fn end_restore(&self, restore: &RestoreRecord, now: Timestamp) -> Result<(), StoreError> {
        let RestoreRecord { name, content, policy, report, .. } = restore;
        let is_first = self.change_restore(name, content, |known| {
            let is_first = known.report.finished_at.is_none();
            if is_first {
                known.clone_from(restore);
            }
            is_first
        });
        if is_first.await? {
            self.change_points(policy, |record| record.restore_ended(name, report, now)).await?;
        }
        // Those of documents stay for ever, because each is carried out once; of those by hand the newest are enough.
        let mut by_hand = self.restores().await?;
        by_hand.retain(|known| known.name == *policy && known.policy == *policy && known.report.finished_at.is_some());
        by_hand.sort_by_key(|known| known.report.started_at);
        for old in by_hand.iter().rev().skip(MOST_RUNS) {
            self.delete(&restore_address(&old.name, &old.content)).await?;
        }
        Ok(())
    }
}

fn restore_address<'a>(restore: &'a PolicyName, content: &str) -> Address<'a> {
    Address { name: names::restore_map(restore, content), kind: Kind::Restore, policy: Some(restore) }
}
