//! Name servers: settings, and brokers' write permission in their routes.

use std::collections::BTreeMap;
use std::fmt::{self, Display, Formatter};

use agena_protocol::command::Command;
use agena_protocol::properties_text;
use agena_protocol::request_code::RequestCode;
use serde::Serialize;

use crate::call::Call;
use crate::command::{SubCommand, example, value};
use crate::failure::Failure;

use super::broker::config_pairs;

pub(crate) const GET_NAMESRV_CONFIG: SubCommand = SubCommand {
    name: "getNamesrvConfig",
    about: "Get configs of name server.",
    options: &[],
    examples: &[example(
        "-n '127.0.0.1:9876;127.0.0.2:9876'",
        "every setting of each of them",
    )],
    json: r#"per name server {"nameServer":"ip:port","config":{"key":"value"}}"#,
    run: get_namesrv_config,
};

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Settings<'a> {
    name_server: &'a str,
    config: BTreeMap<String, String>,
}

impl Display for Settings<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        writeln!(f, "============{}============", self.name_server)?;
        self.config
            .iter()
            .try_for_each(|(key, value)| writeln!(f, "{key:<50}=  {value}"))
    }
}

fn get_namesrv_config(call: &mut Call) -> Result<(), Failure> {
    for name_server in call.remote.name_servers() {
        let request = Command::request(RequestCode::GetNamesrvConfig);
        let answer = call.remote.ask(
            "asking for the name server's settings",
            name_server,
            request,
        )?;
        call.out.show(&Settings {
            name_server,
            config: config_pairs(&answer),
        })?;
    }
    Ok(())
}

pub(crate) const UPDATE_NAMESRV_CONFIG: SubCommand = SubCommand {
    name: "updateNamesrvConfig",
    about: "Update configs of name server.",
    options: &[
        value('k', "key", "config key").required(),
        value('v', "value", "config value").required(),
    ],
    examples: &[example(
        "-k notifyMinBrokerIdChanged -v true",
        "on every name server of -n",
    )],
    json: r#"{"nameServers":["ip:port"],"key","value"}"#,
    run: update_namesrv_config,
};

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ConfigChanged<'a> {
    name_servers: &'a [String],
    key: &'a str,
    value: &'a str,
}

impl Display for ConfigChanged<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "update name server config success![{}]",
            self.name_servers.join(", ")
        )?;
        writeln!(f, "{} : {}", self.key, self.value)
    }
}

fn update_namesrv_config(call: &mut Call) -> Result<(), Failure> {
    let (key, value) = (
        call.options.required("key")?,
        call.options.required("value")?,
    );
    let text = properties_text::write([(key, value)]);
    for address in call.remote.name_servers() {
        let request =
            Command::request(RequestCode::UpdateNamesrvConfig).with_body(text.clone().into_bytes());
        call.remote
            .ask(&format!("setting {key}"), address, request)?;
    }
    call.out.show(&ConfigChanged {
        name_servers: call.remote.name_servers(),
        key,
        value,
    })
}

pub(crate) const WIPE_WRITE_PERM: SubCommand = SubCommand {
    name: "wipeWritePerm",
    about: "Wipe write perm of broker in all name server you defined in the -n param.",
    options: &[value('b', "brokerName", "broker name").required()],
    examples: &[example(
        "-b broker-a",
        "producers leave the broker at their next route; consumers empty it",
    )],
    json: r#"per name server {"nameServer":"ip:port","brokerName","topics":24}"#,
    run: |call| {
        change_permission(
            call,
            RequestCode::WipeWritePermOfBroker,
            "wipe",
            "wipeTopicCount",
        )
    },
};

pub(crate) const ADD_WRITE_PERM: SubCommand = SubCommand {
    name: "addWritePerm",
    about: "Add write perm of broker in all name server you defined in the -n param.",
    options: &[value('b', "brokerName", "broker name").required()],
    examples: &[example("-b broker-a", "takes back a wipeWritePerm")],
    json: r#"per name server {"nameServer":"ip:port","brokerName","topics":24}"#,
    run: |call| {
        change_permission(
            call,
            RequestCode::AddWritePermOfBroker,
            "add",
            "addTopicCount",
        )
    },
};

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct PermissionChanged<'a> {
    name_server: &'a str,
    broker_name: &'a str,
    topics: i64,
    #[serde(skip)]
    verb: &'static str,
}

impl Display for PermissionChanged<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Self {
            name_server,
            broker_name,
            topics,
            verb,
        } = self;
        writeln!(
            f,
            "{verb} write perm of broker[{broker_name}] in name server[{name_server}] OK, {topics}"
        )
    }
}

fn change_permission(
    call: &mut Call,
    code: RequestCode,
    verb: &'static str,
    count_field: &'static str,
) -> Result<(), Failure> {
    let broker_name = call.options.required("brokerName")?;
    for name_server in call.remote.name_servers() {
        let request = Command::request(code).with_ext("brokerName", broker_name);
        let step = format!("changing the write permission of broker {broker_name}");
        let answer = call.remote.ask(&step, name_server, request)?;
        let topics = answer
            .ext
            .get(count_field)
            .and_then(|text| text.parse().ok())
            .unwrap_or(0);
        call.out.show(&PermissionChanged {
            name_server,
            broker_name,
            topics,
            verb,
        })?;
    }
    Ok(())
}
