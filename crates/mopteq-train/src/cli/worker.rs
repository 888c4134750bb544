//! `mopteq worker`.

use std::net::IpAddr;

use clap::Args;
use serde_json::json;

use crate::Error;
use crate::device::{DeviceChoice, DeviceError, Token, Worker};
use crate::progress::{say, warn};

use super::shared::DeviceArgument;

#[derive(Args)]
#[command(after_help = "Examples:\n  \
    mopteq worker --device cpu\n  \
    mopteq worker --device cuda --address 192.168.1.20\n  \
    mopteq train --devices cpu,remote:192.168.1.20:7879")]
pub struct WorkerArguments {
    #[command(flatten)]
    device: DeviceArgument,
    /// Address to listen on. Other machines cannot reach the default.
    #[arg(long, value_name = "IP", default_value = "127.0.0.1")]
    address: IpAddr,
    /// Port to listen on; 0 takes any that is free.
    #[arg(long, default_value_t = 7879)]
    port: u16,
}

pub fn run(arguments: &WorkerArguments, json: bool) -> Result<(), Error> {
    if let choice @ DeviceChoice::Remote(_) = &arguments.device.device {
        let name = choice.to_string();
        return Err(DeviceError::RemoteWorker { name }.into());
    }
    // A session that panics ends alone and reports to nobody, so this process prints its message.
    drop(std::panic::take_hook());
    let device = arguments.device.select()?;
    let file = arguments.device.token.file();
    let token = Token::read_or_create(&file)?;
    let worker = Worker::bind(&device, arguments.address, arguments.port, token)?;
    let Some(address) = worker.address() else {
        return worker.run().map_err(Error::from);
    };
    if !address.ip().is_loopback() {
        warn(
            "what travels is not encrypted, the token included: listen only in a network that you \
             trust",
        );
    }
    if json {
        let (address, device) = (address.to_string(), &device.name);
        let token = file.display().to_string();
        say(json!({"event": "listening", "address": address, "device": device, "token": token}));
    } else {
        say(format_args!("device   {}: {}", device.name, device.reason));
        say(format_args!("worker   {address}"));
        say(format_args!("token    {}", file.display()));
        say(format_args!(
            "use      mopteq train --devices cpu,remote:{address}"
        ));
        say("stop     with Ctrl-C");
    }
    Ok(worker.run()?)
}
