//! Nested directories of the simulated disk.
//!
//! Invariant: see the [parent module](super).

use super::*;

impl Nested for SimFiles {
    fn enter(&self, name: &OsStr) -> io::Result<Option<Self>> {
        let name = name.to_string_lossy();
        let mut disk = self.disk.lock();
        disk.whole()?;
        match disk.entry(self.number, &name) {
            Ok(Entry::Folder(number)) => Ok(Some(Self {
                folder: self.folder.join(&*name),
                number,
                disk: Arc::clone(&self.disk),
            })),
            Ok(Entry::File(_)) => Err(io::ErrorKind::NotADirectory.into()),
            Err(_) => Ok(None),
        }
    }

    fn make(&self, name: &OsStr) -> io::Result<()> {
        let name = name.to_string_lossy().into_owned();
        let mut disk = self.disk.lock();
        disk.whole()?;
        disk.folders.push(Folder {
            above: self.number,
            ..Folder::default()
        });
        let entry = Some(Entry::Folder(disk.folders.len() - 1));
        disk.rename_all(self.number, vec![(name, entry)]);
        Ok(())
    }

    fn settle(&self) -> io::Result<()> {
        let mut disk = self.disk.lock();
        let above = disk.folders[self.number].above;
        disk.sync_names(above)
    }
}
