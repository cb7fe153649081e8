//! Flush: writes a frozen memtable as a run, and the committed state at its freeze as a checkpoint.
//!
//! Invariant: the journal segments of the memtable are removed only after the manifest that
//! contains the run and the checkpoint is on disk. A flush that finds no space changes nothing and
//! is retried.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use super::super::{KEY_BYTES, StoreError};
use super::checkpoint;
use super::journal;
use super::manifest::RunEntry;
use super::run::{self, Run};
use super::run_writer::RunWriter;
use super::shared::{Flush, Shared, Stop, Version};

/// Maximum number of runs. With more, a flush waits for compactions, and commits wait for the
/// flush.
pub(super) const RUNS_MAX: usize = 64;

/// Maximum factor by which the thread extends its retry interval if a flush found no space although
/// the file system reported enough, for example because of a quota.
const PAUSES_MAX: u32 = 16;

/// What the thread does next.
enum Job {
    Flush(Arc<Flush>),
    /// Check whether a full disk has space again.
    Look,
}

/// Runs the flush thread until the store stops.
pub(super) fn work(shared: &Shared) {
    let mut pauses = 1;
    while let Some(job) = next_job(shared, pauses) {
        let done = match job {
            Job::Flush(flush) => attempt(shared, &flush),
            Job::Look => look(shared, &mut pauses),
        };
        if let Err(error) = done {
            shared.fail(error);
            return;
        }
    }
}

/// Waits for the next job. Returns `None` if the thread must end.
fn next_job(shared: &Shared, pauses: u32) -> Option<Job> {
    let look_at = Instant::now() + shared.options.room_interval * pauses;
    let mut state = shared.state();
    loop {
        if state.stop == Stop::Now || shared.is_poisoned() {
            return None;
        }
        let is_ending = state.stop == Stop::Drained;
        let may_start = has_place(shared) || is_ending;
        match &state.flush {
            // The journal contains the data that this flush would write.
            Some(_) if is_ending && state.flush_waits => return None,
            None if is_ending => return None,
            Some(flush) if may_start && !state.flush_waits => {
                return Some(Job::Flush(Arc::clone(flush)));
            }
            _ if !shared.is_full() => shared.wait(&mut state),
            _ => {
                if shared.wait_until(&mut state, look_at) {
                    return Some(Job::Look);
                }
            }
        }
    }
}

/// Whether the number of runs allows one more.
fn has_place(shared: &Shared) -> bool {
    shared.view().runs.len() < RUNS_MAX
}

/// Attempts a flush. If there is no space for it, it releases the reserve, once. If there is no
/// reserve, the flush waits for space.
fn attempt(shared: &Shared, flush: &Flush) -> Result<(), StoreError> {
    match run(shared, flush) {
        Err(error) if error.is_full() => {
            shared.note_full(&error);
            if !shared.release_reserve()? {
                shared.state().flush_waits = true;
            }
            // Threads that wait for the flush must learn that the disk is full.
            shared.wake();
            Ok(())
        }
        done => done,
    }
}

/// Checks whether the waiting flush has space now. If no flush waits, checks whether commits have
/// space.
fn look(shared: &Shared, pauses: &mut u32) -> Result<(), StoreError> {
    let waiting = shared.state().flush.clone();
    let Some(flush) = waiting else {
        *pauses = 1;
        return shared.find_room();
    };
    let bytes = flush.table.read().len() as u64 * KEY_BYTES as u64;
    if !has_place(shared) || !shared.has_room(bytes)? {
        return Ok(());
    }
    match run(shared, &flush) {
        Err(error) if error.is_full() => *pauses = (*pauses * 2).min(PAUSES_MAX),
        done => {
            *pauses = 1;
            done?;
        }
    }
    Ok(())
}

fn run(shared: &Shared, flush: &Flush) -> Result<(), StoreError> {
    let (of_run, of_checkpoint) = (shared.take_number()?, shared.take_number()?);
    let names = [run::name(of_run), checkpoint::name(of_checkpoint)];
    // Before the manifest contains them, the files are not part of the store. If there is no space
    // they are removed.
    let written = shared.or_discard(&names[0], || {
        shared.or_discard(&names[1], || write(shared, flush, of_run, of_checkpoint))
    })?;
    for segment in flush.first_segment..flush.next_segment {
        retire_segment(shared, segment)?;
    }
    if written.old_checkpoint != 0 {
        let name = checkpoint::name(written.old_checkpoint);
        shared.files.remove_file(&name)?;
    }
    shared.frozen_journal_bytes.store(0, Ordering::Relaxed);
    let checkpoint = &shared.checkpoint_bytes;
    checkpoint.store(written.checkpoint_bytes, Ordering::Relaxed);
    {
        let mut state = shared.state();
        (state.flush, state.flush_waits) = (None, false);
    }
    shared.notify();
    Ok(())
}

/// The result of [`write()`].
struct Written {
    old_checkpoint: u64,
    checkpoint_bytes: u64,
}

/// Writes run, checkpoint and the manifest that contains them, and makes them visible.
fn write(
    shared: &Shared,
    flush: &Flush,
    of_run: u64,
    of_checkpoint: u64,
) -> Result<Written, StoreError> {
    let run = write_run(shared, flush, of_run)?.map(Arc::new);
    let checkpoint_bytes = flush
        .image
        .write(&*shared.files, of_checkpoint, |from, count| {
            let committed = shared.committed.read();
            let names = committed.names().iter().skip(from).take(count);
            names.cloned().collect()
        })?;
    let mut manifest = shared.manifest.lock();
    let mut next = manifest.clone();
    let old_checkpoint = next.checkpoint;
    next.commit = flush.image.commit;
    next.checkpoint = of_checkpoint;
    next.first_segment = flush.next_segment;
    next.next_number = shared.next_number();
    next.runs.extend(run.iter().map(|run| RunEntry {
        number: run.number,
        keys: run.keys,
    }));
    shared.write_manifest(&next)?;
    *manifest = next;
    {
        let mut view = shared.view.write();
        let mut changed = Version::clone(&view);
        changed.frozen = None;
        changed.runs.extend(run);
        *view = Arc::new(changed);
    }
    Ok(Written {
        old_checkpoint,
        checkpoint_bytes,
    })
}

/// Keeps a flushed segment as space for the next one, or removes it if there is a spare segment
/// already.
fn retire_segment(shared: &Shared, segment: u64) -> Result<(), StoreError> {
    let name = journal::name(segment);
    let bytes = shared.files.open_file(&name)?.len()?;
    let bytes_max = shared.options.segment_bytes_max + shared.options.journal_ahead_bytes;
    let is_wanted = shared.spare_bytes.load(Ordering::Acquire) == 0 && !shared.is_stopping();
    if !is_wanted || bytes > bytes_max {
        return shared.files.remove_file(&name);
    }
    // After a crash the file may have either name. Under neither name is it part of the store.
    match shared.files.rename_file(&name, &journal::spare_name()) {
        Err(error) if error.is_full() => shared.files.remove_file(&name),
        done => {
            done?;
            shared.spare_bytes.store(bytes, Ordering::Release);
            Ok(())
        }
    }
}

fn write_run(shared: &Shared, flush: &Flush, number: u64) -> Result<Option<Run>, StoreError> {
    let mut keys = flush.table.read().to_vec();
    if keys.is_empty() {
        return Ok(None);
    }
    keys.sort_unstable();
    let files = Arc::clone(&shared.files);
    let filter = shared.filters.make(keys.len() as u64);
    let mut writer = RunWriter::create(files, number, filter)?;
    for key in keys {
        writer.push(key)?;
    }
    writer.finish().map(Some)
}
