//! A task that panics takes its process with it.
//!
//! Invariant: every task that is watched is made to panic, in each kind of node that has one of its
//! own way to notice.

use std::time::{Duration, Instant};

use headcount::supervisor::Task;
use reqwest::Client;

use crate::cluster::{Cluster, Setup};
use crate::node::items;
use crate::process::Process;
use crate::wait::PATIENCE;

/// Between two looks at those that still run.
const PAUSE: Duration = Duration::from_millis(100);

/// The longest that a request to a node may take whose task may be gone.
const ANSWER_LIMIT: Duration = Duration::from_secs(2);

/// The commands whose nodes have a task.
fn homes(task: Task) -> &'static [&'static str] {
    match task {
        Task::Signals => &["serve", "coordinator", "counter"],
        Task::CounterThread | Task::StoreFlush => &["serve", "counter"],
        Task::Batcher | Task::Barriers => &["serve", "coordinator"],
        // A counter behind a broker is on its thread always.
        Task::Counter | Task::MetricsUpkeep | Task::StoreMerge => &["serve"],
        Task::StartRead
        | Task::Tending
        | Task::LogState
        | Task::BrokerWatch
        | Task::AskingLane
        | Task::Announcer
        | Task::Listener
        | Task::PublisherLane
        | Task::PublisherLink => &["coordinator"],
        Task::Members | Task::Strangers | Task::PublisherControl => &["coordinator", "counter"],
        Task::Session | Task::Acknowledger | Task::AntiEntropy => &["counter"],
    }
}

/// A process one of whose tasks panics once it has begun.
struct Victim {
    task: Task,
    command: &'static str,
    process: Process,
}

impl Victim {
    fn start(cluster: &Cluster, task: Task, command: &'static str) -> Self {
        let name = format!("{command}-of-{task}");
        let data_dir = cluster.data_dir(&name);
        let folder = data_dir.parent().expect("the cluster's folder");
        let data_dir = data_dir.display().to_string();
        let mut flags = vec![("--listen", "127.0.0.1:0".to_owned())];
        if command != "coordinator" {
            flags.push(("--data-dir", data_dir));
        }
        if command != "serve" {
            flags.push(("--amqp-url", cluster.amqp_url()));
            flags.push(("--cluster-secret-file", cluster.secret()));
        }
        match command {
            "coordinator" => {
                flags.push(("--counters", "c1".to_owned()));
                // Nobody needs to answer there.
                let management = "http://user:password@127.0.0.1:1".to_owned();
                flags.push(("--management-url", management));
            }
            "counter" => flags.push(("--name", name.clone())),
            _ => {}
        }
        let mut args = vec![command.to_owned()];
        for (flag, value) in flags {
            args.extend([flag.to_owned(), value]);
        }
        let told = ("HEADCOUNT_TEST_PANIC", task.name());
        Self {
            task,
            command,
            process: Process::start_in(&name, args, folder, &[told]),
        }
    }

    /// Gives every task something to do. What comes of it does not matter.
    async fn provoke(&self, http: &Client) {
        let Some(url) = self.process.face().url() else {
            return;
        };
        if self.task == Task::Signals {
            self.process.signal("-TERM");
        }
        let post = http.post(format!("{url}/items")).json(&items("t", 0, 2));
        let _ = post.send().await;
        let _ = http.get(format!("{url}/items/t/count")).send().await;
    }

    /// What is wrong with how it ended; none when nothing is.
    fn fault(&mut self) -> Option<String> {
        let (task, command) = (self.task, self.command);
        let fault = |what: &str, process: &Process| {
            let tail = process.log_tail();
            Some(format!("{command}, whose {task} panics: {what}\n{tail}"))
        };
        let Some(status) = self.process.ended() else {
            return fault("it goes on", &self.process);
        };
        if status.code() != Some(1) {
            return fault(&format!("it ended with {status}"), &self.process);
        }
        let message = format!("HEADCOUNT_TEST_PANIC names {task}");
        let log = self.process.log();
        let mut errors = log
            .lines()
            .filter(|line| line.contains("\"level\":\"ERROR\""));
        match errors.any(|line| line.contains(&message)) {
            true => None,
            false => fault("no error in its log has the panic's message", &self.process),
        }
    }
}

/// Only a build with debug assertions, as the tests' usually is, panics when it is told to.
#[tokio::test(flavor = "multi_thread")]
async fn each_task_that_panics_ends_its_process_and_is_named() {
    if !cfg!(debug_assertions) {
        return;
    }
    let mut cluster = Cluster::start(Setup::new().counters(&["c1"])).await;
    let http = Client::builder().timeout(ANSWER_LIMIT).build();
    let http = http.expect("a client");
    let mut faults = Vec::new();
    for command in ["serve", "coordinator", "counter"] {
        let tasks = Task::ALL
            .iter()
            .filter(|task| homes(**task).contains(&command));
        let mut victims: Vec<Victim> = tasks
            .map(|task| Victim::start(&cluster, *task, command))
            .collect();
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline
            && victims
                .iter_mut()
                .any(|victim| victim.process.ended().is_none())
        {
            cluster.post_surely(0, &items("t", 0, 2)).await;
            for victim in &mut victims {
                if victim.process.ended().is_none() {
                    victim.provoke(&http).await;
                }
            }
            tokio::time::sleep(PAUSE).await;
        }
        faults.extend(victims.iter_mut().filter_map(Victim::fault));
    }
    assert!(
        faults.is_empty(),
        "{} faults:\n{}",
        faults.len(),
        faults.join("\n")
    );
    let count = cluster.exact_count(0, "t", "").await;
    assert_eq!(count, 2, "each id once");
}
