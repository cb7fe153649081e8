//! A virtual host of a test's broker: what an operator can see in it and do to it.
//!
//! Invariant: it asks the broker's own code, not tables that lag behind.

use super::broker::{PASSWORD, USER};
use super::broker_node::BrokerNode;
use super::rabbitmq::major;

/// A virtual host, and what an operator can do to it.
#[derive(Debug, Clone)]
pub struct Vhost {
    name: String,
}

impl Vhost {
    pub fn named(name: &str) -> Self {
        Self {
            name: name.to_owned(),
        }
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// Makes it, with everything allowed to the user of the tests.
    pub fn create(&self, node: &BrokerNode) {
        let name = &self.name;
        let all = "<<\".*\">>";
        let made = node.eval(&format!(
            "ok = rabbit_vhost:add(<<\"{name}\">>, <<\"tests\">>), \
             ok = rabbit_auth_backend_internal:set_permissions(\
             <<\"{USER}\">>, <<\"{name}\">>, {all}, {all}, {all}, <<\"tests\">>)"
        ));
        assert_eq!(made, "ok");
    }

    /// `amqp://` by way of `port`.
    pub fn url(&self, port: u16) -> String {
        self.url_of("amqp", port)
    }

    /// The same with another scheme.
    pub fn url_of(&self, scheme: &str, port: u16) -> String {
        format!(
            "{scheme}://{USER}:{PASSWORD}@127.0.0.1:{port}/{}",
            self.name
        )
    }

    fn with_queue(&self, node: &BrokerNode, queue: &str, what: &str) -> Result<String, String> {
        let name = &self.name;
        let answer = node.eval(&format!(
            "case rabbit_amqqueue:lookup(rabbit_misc:r(<<\"{name}\">>, queue, <<\"{queue}\">>)) of \
             {{ok, Q}} -> {what}; {{error, not_found}} -> missing end"
        ));
        match answer.as_str() {
            "missing" => Err(format!("no queue {queue}")),
            _ => Ok(answer),
        }
    }

    pub fn has_queue(&self, node: &BrokerNode, queue: &str) -> bool {
        self.with_queue(node, queue, "found").is_ok()
    }

    /// Members of a quorum queue that run and vote.
    ///
    /// # Errors
    /// When the broker can't tell.
    pub fn voters(&self, node: &BrokerNode, queue: &str) -> Result<u64, String> {
        let name = &self.name;
        let voters = node.try_eval(&format!(
            "length([M || M <- rabbit_quorum_queue:status(<<\"{name}\">>, <<\"{queue}\">>), \
             lists:member(proplists:get_value(<<\"Raft State\">>, M), [leader, follower]), \
             lists:member(proplists:get_value(<<\"Contains\">>, M, voter), \
             [voter, <<\"voter\">>])])"
        ))?;
        voters.parse().map_err(|_| voters)
    }

    /// Messages that wait, without those delivered and not acknowledged.
    ///
    /// # Errors
    /// When there is no such queue.
    pub fn ready(&self, node: &BrokerNode, queue: &str) -> Result<u64, String> {
        let what = "{ok, Ready, _} = rabbit_amqqueue:stat(Q), Ready";
        let ready = self.with_queue(node, queue, what)?;
        ready.parse().map_err(|_| ready)
    }

    /// Those that listen on a queue.
    ///
    /// # Errors
    /// When there is no such queue.
    pub fn consumers(&self, node: &BrokerNode, queue: &str) -> Result<u64, String> {
        let what = "{ok, _, Consumers} = rabbit_amqqueue:stat(Q), Consumers";
        let consumers = self.with_queue(node, queue, what)?;
        consumers.parse().map_err(|_| consumers)
    }

    #[track_caller]
    pub fn purge(&self, node: &BrokerNode, queue: &str) -> u64 {
        let what = "{ok, Count} = rabbit_amqqueue:purge(Q), Count";
        let purged = self.with_queue(node, queue, what).expect("a queue");
        purged.parse().expect("a number")
    }

    #[track_caller]
    pub fn delete_queue(&self, node: &BrokerNode, queue: &str) {
        let what = "{ok, _} = rabbit_amqqueue:delete(Q, false, false, <<\"tests\">>), deleted";
        self.with_queue(node, queue, what).expect("a queue");
    }

    /// Sets what the broker believes of a queue's process, as `crashed` or `live`; the queue itself
    /// is not touched.
    pub fn set_queue_state(&self, node: &BrokerNode, queue: &str, state: &str) {
        let update = format!(
            "rabbit_amqqueue:update(rabbit_misc:r(<<\"{}\">>, queue, <<\"{queue}\">>), \
             fun(Q) -> amqqueue:set_state(Q, {state}) end)",
            self.name
        );
        match major() {
            3 => node.eval(&format!(
                "begin rabbit_misc:execute_mnesia_transaction(fun() -> {update} end), ok end"
            )),
            _ => node.eval(&format!("begin {update}, ok end")),
        };
    }

    /// Leaves the user no rights but these: what it may configure, write to and read.
    pub fn restrict(&self, node: &BrokerNode, rights: [&str; 3]) {
        let name = &self.name;
        let [configure, write, read] = rights;
        node.eval(&format!(
            "ok = rabbit_auth_backend_internal:set_permissions(\
             <<\"{USER}\">>, <<\"{name}\">>, \
             <<\"{configure}\">>, <<\"{write}\">>, <<\"{read}\">>, <<\"tests\">>), ok"
        ));
    }

    /// Lets it have so many queues, or any number.
    pub fn limit_queues(&self, node: &BrokerNode, queues_max: Option<u64>) {
        let name = &self.name;
        node.eval(&match queues_max {
            Some(max) => format!(
                "ok = rabbit_vhost_limit:set(<<\"{name}\">>, \
                 [{{<<\"max-queues\">>, {max}}}], <<\"tests\">>), ok"
            ),
            None => format!("ok = rabbit_vhost_limit:clear(<<\"{name}\">>, <<\"tests\">>), ok"),
        });
    }

    /// What an export of definitions has of it: exchanges, queues and bindings, and no message. For
    /// [`define`](Self::define).
    pub fn definitions(&self, node: &BrokerNode) -> String {
        let name = &self.name;
        node.eval(&format!(
            "V = <<\"{name}\">>, \
             Xs = [{{element(4, element(2, X)), element(3, X)}} \
             || X <- rabbit_exchange:list(V), element(4, element(2, X)) =/= <<>>, \
             binary:match(element(4, element(2, X)), <<\"amq.\">>) =/= {{0, 4}}], \
             Qs = [{{element(4, amqqueue:get_name(Q)), amqqueue:get_arguments(Q)}} \
             || Q <- rabbit_amqqueue:list(V), \
             amqqueue:is_durable(Q)], \
             Bs = [{{element(4, element(2, B)), element(4, element(4, B))}} \
             || B <- rabbit_binding:list(V), element(4, element(2, B)) =/= <<>>, \
             lists:keymember(element(4, element(4, B)), 1, Qs)], \
             base64:encode(term_to_binary({{Xs, Qs, Bs}}))"
        ))
    }

    /// Makes what [`definitions`](Self::definitions) says.
    pub fn define(&self, node: &BrokerNode, definitions: &str) {
        let name = &self.name;
        node.eval(&format!(
            "V = <<\"{name}\">>, \
             {{Xs, Qs, Bs}} = binary_to_term(base64:decode({definitions})), \
             [rabbit_exchange:declare(rabbit_misc:r(V, exchange, N), \
             T, true, false, false, [], <<\"tests\">>) || {{N, T}} <- Xs], \
             [{{new, _}} = rabbit_amqqueue:declare(rabbit_misc:r(V, queue, N), \
             true, false, A, none, <<\"tests\">>) || {{N, A}} <- Qs], \
             [ok = rabbit_binding:add({{binding, rabbit_misc:r(V, exchange, S), <<>>, \
             rabbit_misc:r(V, queue, D), []}}, \
             <<\"tests\">>) || {{S, D}} <- Bs], ok"
        ));
    }

    /// Names of the exchanges that start with `headcount.`
    pub fn exchanges(&self, node: &BrokerNode) -> Vec<String> {
        let name = &self.name;
        let listed = node.eval(&format!(
            "lists:flatten(lists:join(\" \", [binary_to_list(element(4, element(2, X))) \
             || X <- rabbit_exchange:list(<<\"{name}\">>)]))"
        ));
        listed
            .trim_matches('"')
            .split(' ')
            .filter(|name| name.starts_with("headcount."))
            .map(str::to_owned)
            .collect()
    }

    /// Connections of clients to this virtual host.
    pub fn connections(&self, node: &BrokerNode) -> u64 {
        let name = &self.name;
        let count = node.eval(&format!(
            "length([P || P <- rabbit_networking:connections(), \
             catch rabbit_reader:info(P, [vhost]) == [{{vhost, <<\"{name}\">>}}]])"
        ));
        count.parse().expect("a number")
    }
}
