//! One run of a sub-command: its options, the way to the servers, and where answers go.

use crate::command::Options;
use crate::failure::Failure;
use crate::output::Output;
use crate::remote::Remote;

/// What a sub-command's function gets.
pub(crate) struct Call {
    pub(crate) options: Options,
    pub(crate) remote: Remote,
    pub(crate) out: Output,
}

impl Call {
    /// The addresses that `-b` or `-c` choose: one broker, or the masters of a cluster, by broker name.
    pub(crate) fn chosen_brokers(
        &self,
        broker: &str,
        cluster: &str,
    ) -> Result<Vec<String>, Failure> {
        if let Some(address) = self.options.get(broker) {
            return Ok(vec![address.to_owned()]);
        }
        match self.options.get(cluster) {
            Some(name) => self.remote.masters(name),
            None => Err(Failure::Input(format!(
                "give a broker's address (--{broker}) or a cluster (--{cluster})"
            ))),
        }
    }
}
