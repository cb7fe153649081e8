//! Flushing: a frozen table becomes a run, and the commits up to it a checkpoint.
//!
//! Invariant: the journal's segments of the table are removed only after the manifest that names the run and
//! the checkpoint is on disk.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::super::StoreError;
use super::checkpoint;
use super::journal;
use super::manifest::RunEntry;
use super::run::Run;
use super::run_writer::RunWriter;
use super::shared::{Flush, Shared, Stop, View};

/// The most runs: with more, a flush waits for merges, and commits for the flush.
pub(super) const RUNS_MAX: usize = 64;

/// The thread that flushes, until the store stops.
pub(super) fn work(shared: &Shared) {
    loop {
        let mut state = shared.state();
        let flush = loop {
            if state.stop == Stop::Now || shared.is_poisoned() {
                return;
            }
            let has_room = shared.view().runs.len() < RUNS_MAX || state.stop == Stop::Drained;
            match &state.flush {
                Some(flush) if has_room => break Arc::clone(flush),
                None if state.stop == Stop::Drained => return,
                _ => shared.wait(&mut state),
            }
        };
        drop(state);
        if let Err(error) = run(shared, &flush) {
            shared.fail(error);
            return;
        }
    }
}

fn run(shared: &Shared, flush: &Flush) -> Result<(), StoreError> {
    let run = write_run(shared, flush)?.map(Arc::new);
    let number = shared.take_number()?;
    let checkpoint_bytes = flush.image.write(&*shared.files, number, |from, count| {
        let cut = shared.cut.read();
        let names = cut.names().iter().skip(from).take(count);
        names.cloned().collect()
    })?;

    let mut manifest = shared.manifest.lock();
    let mut next = manifest.clone();
    let old_checkpoint = next.checkpoint;
    next.commit = flush.image.commit;
    next.checkpoint = number;
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
        let mut changed = View::clone(&view);
        changed.frozen = None;
        changed.runs.extend(run);
        *view = Arc::new(changed);
    }
    drop(manifest);

    for segment in flush.first_segment..flush.next_segment {
        retire_segment(shared, segment)?;
    }
    if old_checkpoint != 0 {
        shared
            .files
            .remove_file(&checkpoint::name(old_checkpoint))?;
    }
    shared.frozen_journal_bytes.store(0, Ordering::Relaxed);
    let checkpoint = &shared.checkpoint_bytes;
    checkpoint.store(checkpoint_bytes, Ordering::Relaxed);
    shared.state().flush = None;
    shared.notify();
    Ok(())
}

/// Keeps a flushed segment as the next one's space, or removes it when there is one already.
fn retire_segment(shared: &Shared, segment: u64) -> Result<(), StoreError> {
    let name = journal::name(segment);
    let bytes = shared.files.open_file(&name)?.len()?;
    let bytes_max = shared.options.segment_bytes_max + shared.options.journal_ahead_bytes;
    let is_wanted = shared.spare_bytes.load(Ordering::Acquire) == 0 && !shared.is_stopping();
    if !is_wanted || bytes > bytes_max {
        return shared.files.remove_file(&name);
    }
    // Which name it has after a crash does not matter: under neither is it any part of the store.
    shared.files.rename_file(&name, &journal::spare_name())?;
    shared.spare_bytes.store(bytes, Ordering::Release);
    Ok(())
}

fn write_run(shared: &Shared, flush: &Flush) -> Result<Option<Run>, StoreError> {
    let mut keys = flush.table.read().to_vec();
    if keys.is_empty() {
        return Ok(None);
    }
    keys.sort_unstable();
    let number = shared.take_number()?;
    let files = Arc::clone(&shared.files);
    let filter = shared.filters.make(keys.len() as u64);
    let mut writer = RunWriter::create(files, number, filter)?;
    for key in keys {
        writer.push(key)?;
    }
    writer.finish().map(Some)
}
