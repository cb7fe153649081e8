//! What a cluster is asked and told over HTTP, and what tests wait for by that.
//!
//! Invariant: every wait is for a condition that a client could see.

use std::collections::BTreeMap;

use reqwest::StatusCode;
use serde_json::{Value, json};

use crate::cluster::Cluster;
use crate::node::Answer;
use crate::wait;

impl Cluster {
    /// Asks a coordinator.
    ///
    /// # Errors
    /// When no answer comes.
    pub async fn try_get(&mut self, number: usize, path: &str) -> reqwest::Result<Answer> {
        let url = format!("{}{path}", self.coordinator(number).process.url());
        Answer::try_of(self.http.get(url)).await
    }

    #[track_caller]
    pub fn get(&mut self, number: usize, path: &str) -> impl Future<Output = Answer> {
        let url = format!("{}{path}", self.coordinator(number).process.url());
        Answer::of(self.http.get(url))
    }

    /// Posts until it is acknowledged, and gives the answer.
    pub async fn post_surely(&mut self, number: usize, body: &Value) -> Answer {
        let url = format!("{}/items", self.coordinator(number).process.url());
        let http = self.http.clone();
        wait::until("an acknowledged post", async || {
            let answer = Answer::try_of(http.post(&url).json(body)).await;
            let answer = answer.map_err(|why| why.to_string())?;
            match answer.status {
                StatusCode::OK => Ok(answer),
                _ => Err(answer.text),
            }
        })
        .await
    }

    /// The count once it is exact.
    pub async fn exact_count(&mut self, number: usize, tenant: &str, options: &str) -> u64 {
        let url = self.coordinator(number).process.url();
        let url = format!("{url}/items/{tenant}/count?{options}");
        let http = self.http.clone();
        wait::until("an exact count", async || {
            let answer = Answer::try_of(http.get(&url)).await;
            let answer = answer.map_err(|why| why.to_string())?;
            match (answer.status, &answer.json["exact"]) {
                (StatusCode::OK, Value::Bool(true)) => Ok(answer.json["count"].as_u64()),
                _ => Err(answer.text),
            }
        })
        .await
        .expect("a number")
    }

    /// The counters as a coordinator sees them, by name.
    pub async fn counters(&mut self, number: usize) -> Result<BTreeMap<String, Value>, String> {
        let answer = self.try_get(number, "/counters").await;
        let answer = answer.map_err(|why| why.to_string())?;
        let listed = answer.json["counters"].as_array().cloned();
        let listed = listed.ok_or_else(|| answer.text.clone())?;
        let named = |counter: Value| {
            (
                counter["name"].as_str().unwrap_or_default().to_owned(),
                counter,
            )
        };
        Ok(listed.into_iter().map(named).collect())
    }

    /// Waits until every coordinator sees `name` in `state`.
    pub async fn wait_for_state(&mut self, name: &str, state: &str) {
        for number in 0..self.faces().len() {
            let what = format!("counter {name} that is {state} for coordinator {number}");
            wait::until(&what, async || {
                let counters = self.counters(number).await?;
                match counters.get(name) {
                    Some(counter) if counter["state"] == json!(state) => Ok(()),
                    _ => Err(format!("{counters:?}")),
                }
            })
            .await;
        }
    }

    /// Waits until a counter holds this many items.
    pub async fn counter_holds(&mut self, name: &str, items: u64) {
        let what = format!("counter {name} with {items} items");
        wait::until(&what, async || {
            let counters = self.counters(0).await?;
            match counters.get(name) {
                Some(counter) if counter["items"] == json!(items) => Ok(()),
                other => Err(format!("{other:?}")),
            }
        })
        .await;
    }

    /// Waits until every counter that runs is complete.
    pub async fn wait_until_complete(&mut self) {
        for name in self.running() {
            self.wait_for_state(&name, "complete").await;
        }
    }
}
