//! The name servers' key-value configuration. It is not shared between them: changes go to each.

use std::fmt::{self, Display, Formatter};

use agena_protocol::command::Command;
use agena_protocol::request_code::RequestCode;
use serde::Serialize;

use crate::call::Call;
use crate::command::{SubCommand, example, value};
use crate::failure::Failure;

pub(crate) const UPDATE_KV_CONFIG: SubCommand = SubCommand {
    name: "updateKvConfig",
    about: "Create or update KV config.",
    options: &[
        value('s', "namespace", "set the namespace").required(),
        value('k', "key", "set the key name").required(),
        value('v', "value", "set the key value").required(),
    ],
    examples: &[example(
        "-s MY_NS -k owner -v team-a",
        "kept by every name server, over restarts",
    )],
    json: r#"{"namespace","key","value"}"#,
    run: update_kv_config,
};

pub(crate) const DELETE_KV_CONFIG: SubCommand = SubCommand {
    name: "deleteKvConfig",
    about: "Delete KV config.",
    options: &[
        value('s', "namespace", "set the namespace").required(),
        value('k', "key", "set the key name").required(),
    ],
    examples: &[example("-s MY_NS -k owner", "no error if it was not there")],
    json: r#"{"namespace","key","value":null}"#,
    run: delete_kv_config,
};

#[derive(Serialize)]
struct KvChanged<'a> {
    namespace: &'a str,
    key: &'a str,
    value: Option<&'a str>,
}

impl Display for KvChanged<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self.value {
            Some(_) => writeln!(f, "create or update kv config to namespace success."),
            None => writeln!(f, "delete kv config from namespace success."),
        }
    }
}

fn update_kv_config(call: &mut Call) -> Result<(), Failure> {
    let (namespace, key) = (
        call.options.required("namespace")?,
        call.options.required("key")?,
    );
    let value = Some(call.options.required("value")?);
    tell_all(call, RequestCode::PutKvConfig, namespace, key, value)?;
    call.out.show(&KvChanged {
        namespace,
        key,
        value,
    })
}

fn delete_kv_config(call: &mut Call) -> Result<(), Failure> {
    let (namespace, key) = (
        call.options.required("namespace")?,
        call.options.required("key")?,
    );
    tell_all(call, RequestCode::DeleteKvConfig, namespace, key, None)?;
    call.out.show(&KvChanged {
        namespace,
        key,
        value: None,
    })
}

/// Puts or deletes a key on every name server.
pub(super) fn tell_all(
    call: &Call,
    code: RequestCode,
    namespace: &str,
    key: &str,
    value: Option<&str>,
) -> Result<(), Failure> {
    for address in call.remote.name_servers() {
        let mut request = Command::request(code)
            .with_ext("namespace", namespace)
            .with_ext("key", key);
        if let Some(value) = value {
            request = request.with_ext("value", value);
        }
        call.remote.ask(
            &format!("changing key {key} of namespace {namespace}"),
            address,
            request,
        )?;
    }
    Ok(())
}

/// The value of a key; refused with `QueryNotFound` if there is none.
pub(super) fn get(call: &Call, namespace: &str, key: &str) -> Result<String, Failure> {
    let request = Command::request(RequestCode::GetKvConfig)
        .with_ext("namespace", namespace)
        .with_ext("key", key);
    let (_, answer) = call.remote.ask_name_server(
        &format!("asking for key {key} of namespace {namespace}"),
        &request,
    )?;
    Ok(answer.ext.get("value").unwrap_or_default().to_owned())
}
