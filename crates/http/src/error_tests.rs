//! Tests of problems as clients see them.
//!
//! Invariant: see the [module above](super).

use super::*;

#[test]
fn posts_that_the_log_can_not_take_now_may_be_repeated() {
    let lag = AcceptError::CountersLag("c2".into());
    for (error, kind, named) in [
        (AcceptError::LogBlocked, "log-blocked", "broker"),
        (lag, "counters-lag", "c2"),
        (AcceptError::DiskFull, "disk-full", "once there is room"),
    ] {
        let problem = Problem::from(error);
        assert_eq!(problem.kind, format!("{TYPE_PREFIX}{kind}"));
        assert!(problem.detail.contains(named), "{}", problem.detail);
        let response = problem.into_response();
        assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert!(response.headers().contains_key(header::RETRY_AFTER));
    }
}
