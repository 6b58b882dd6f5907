//! The thread that does the jobs of a member that has others to listen to meanwhile.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use super::directory::{self, Directory};
use super::member::{Done, Job};
use super::node::Input;

/// How long until a job for which there was no space is tried again.
const TRY_AGAIN: Duration = Duration::from_millis(200);

/// Jobs on their way, and the thread that does them.
pub(crate) struct Writer {
    jobs: Sender<Job>,
    closing: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Writer {
    pub(crate) fn start(directory: Directory, outbox: Sender<Input>) -> Self {
        let (jobs, queue) = channel();
        let closing = Arc::new(AtomicBool::new(false));
        let thread = {
            let closing = closing.clone();
            std::thread::Builder::new()
                .name("store-disk".to_owned())
                .spawn(move || work(directory, &queue, &outbox, &closing))
        };
        // Without it jobs are refused, and the member stops by itself.
        let thread = thread.inspect_err(|error| tracing::error!(%error, "no thread to write the log")).ok();
        Self { jobs, closing, thread }
    }

    /// Adds jobs, to be done after those that are there.
    pub(crate) fn add(&self, jobs: Vec<Job>) {
        for job in jobs {
            if self.jobs.send(job).is_err() {
                tracing::error!("the thread that writes the log has stopped");
            }
        }
    }

    /// Waits until what was begun is done.
    pub(crate) fn close(mut self) {
        self.closing.store(true, Ordering::Release);
        drop(self.jobs);
        let Some(thread) = self.thread.take() else { return };
        thread.thread().unpark();
        if thread.join().is_err() {
            tracing::error!("the thread that wrote the log panicked");
        }
    }
}

fn work(mut directory: Directory, jobs: &Receiver<Job>, outbox: &Sender<Input>, closing: &AtomicBool) {
    let mut queue = VecDeque::new();
    while let Ok(job) = jobs.recv() {
        queue.push_back(job);
        queue.extend(jobs.try_iter());
        while let Some(job) = directory::next(&mut queue) {
            let mut done = directory.perform(&job);
            while matches!(done, Done::Full(_)) && !closing.load(Ordering::Acquire) {
                if outbox.send(Input::Done(done, directory.log_bytes())).is_err() {
                    return;
                }
                std::thread::park_timeout(TRY_AGAIN);
                done = directory.perform(&job);
            }
            if outbox.send(Input::Done(done, directory.log_bytes())).is_err() || closing.load(Ordering::Acquire) {
                return;
            }
            queue.extend(jobs.try_iter());
        }
    }
}
