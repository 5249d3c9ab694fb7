//! Ports of 127.0.0.1: whether one is free, and which one is.

use std::{
    io,
    net::{Ipv4Addr, TcpListener},
};

use crate::Error;

/// A port of 127.0.0.1 on which nobody listens at the moment.
///
/// Somebody else may take it before the caller does.
pub fn free_port() -> io::Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}

/// Says before a server is started what its own log would say in its own words: that the port is taken.
pub(crate) fn check_port_free(server: &'static str, port: u16, option: &'static str) -> Result<(), Error> {
    match TcpListener::bind((Ipv4Addr::LOCALHOST, port)) {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
            Err(Error::PortTaken { server, port, option })
        }
        Err(source) => Err(Error::PortUnavailable { server, port, option, source }),
    }
}
