//! Ports of 127.0.0.1: search for a free port, and check of a given port.

use std::{
    io,
    net::{Ipv4Addr, TcpListener},
};

use crate::Error;

/// Returns a port of 127.0.0.1 without a listener at the moment.
///
/// Another process may bind the port before the caller does.
pub fn free_port() -> io::Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}

/// Checks that the port is free before the server starts, so that the error names the option to
/// change.
pub(crate) fn check_port_free(server: &'static str, port: u16, option: &'static str) -> Result<(), Error> {
    match TcpListener::bind((Ipv4Addr::LOCALHOST, port)) {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
            Err(Error::PortTaken { server, port, option })
        }
        Err(source) => Err(Error::PortUnavailable { server, port, option, source }),
    }
}
