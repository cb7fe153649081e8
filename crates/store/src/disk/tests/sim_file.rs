//! Open files of the simulated disk.
//!
//! Invariant: see the [parent module](super).

use super::*;

impl RawFile for SimFile {
    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<()> {
        let mut disk = self.disk.lock();
        disk.whole()?;
        let seen = &disk.contents[self.content].seen;
        let stored = seen.get(offset as usize..offset as usize + bytes.len());
        let stored = stored.ok_or_else(|| io::Error::from(io::ErrorKind::UnexpectedEof))?;
        bytes.copy_from_slice(stored);
        Ok(())
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let mut disk = self.disk.lock();
        let fault = disk.step()?;
        let fits = disk.fits(self.content, offset, bytes.len() as u64) as usize;
        let (taken, done) = match fault {
            // The part that a failing disk wrote before it failed.
            Some(Fault::Error) => (bytes.len() / 2, Err(error(Fault::Error))),
            Some(fault) => (bytes.len(), Err(error(fault))),
            None if fits < bytes.len() => (fits, Err(io::ErrorKind::StorageFull.into())),
            None => (bytes.len(), Ok(())),
        };
        let content = &mut disk.contents[self.content];
        if taken > 0 {
            put(&mut content.seen, offset, &bytes[..taken]);
            content.unsynced.push((offset, bytes[..taken].to_owned()));
        }
        done
    }

    fn allocate(&self, bytes: u64) -> io::Result<()> {
        let mut disk = self.disk.lock();
        disk.whole()?;
        let seen = disk.contents[self.content].seen.len() as u64;
        let fits = disk.free().min(bytes.saturating_sub(seen));
        let content = &mut disk.contents[self.content];
        content.seen.resize((seen + fits) as usize, 0);
        match seen + fits < bytes {
            true => Err(io::ErrorKind::StorageFull.into()),
            false => Ok(()),
        }
    }

    fn sync(&self) -> io::Result<()> {
        let mut disk = self.disk.lock();
        let fault = disk.step()?;
        let content = &mut disk.contents[self.content];
        match fault {
            None => {
                for (at, bytes) in content.unsynced.drain(..) {
                    put(&mut content.kept, at, &bytes);
                }
                Ok(())
            }
            Some(fault) => {
                if fault == Fault::Error {
                    content.unsynced.clear();
                }
                Err(error(fault))
            }
        }
    }

    fn len(&self) -> io::Result<u64> {
        let mut disk = self.disk.lock();
        disk.whole()?;
        Ok(disk.contents[self.content].seen.len() as u64)
    }

    fn id(&self) -> io::Result<FileId> {
        let number = self.content as u64;
        Ok(FileId { device: 0, number })
    }
}
