//! Making a token: for a fresh directory of a soft token. Tokens of hardware are made with their maker's tools.

use std::path::Path;

use cryptoki::session::UserType;
use cryptoki::types::AuthPin;

use super::error::device;
use super::module::Library;
use crate::{HsmError, HsmResult};

/// Initialises the first uninitialised token of `module`, sets its label and its user's PIN (PKCS#11 v3.1 §5.5.6,
/// §5.5.7). Blocks.
///
/// # Errors
///
/// [`HsmError::Unavailable`] when the module does not load; [`HsmError::Config`] when all its tokens are initialised
/// already: none is ever initialised again.
pub fn init_token(module: &Path, label: &str, so_pin: &str, pin: &str) -> HsmResult<()> {
    let library = Library::at(module, None)?;
    let generation = library.initialise()?;
    let inside = library.enter(generation)?;
    let _changing = library.changing()?;
    let (context, raw) = (inside.context()?, inside.raw()?);
    let slots = context
        .get_slots_with_token()
        .map_err(device("C_GetSlotList"))?;
    let fresh = slots.into_iter().find(|slot| {
        raw.token_info(*slot)
            .is_ok_and(|token| !token.initialized())
    });
    let slot = fresh.ok_or_else(|| {
        HsmError::Config("all tokens of the module are initialised already".into())
    })?;
    let so_pin = AuthPin::new(so_pin.into());
    context
        .init_token(slot, &so_pin, label)
        .map_err(device("C_InitToken"))?;
    let session = context
        .open_rw_session(slot)
        .map_err(device("C_OpenSession"))?;
    session
        .login(UserType::So, Some(&so_pin))
        .map_err(device("C_Login"))?;
    session
        .init_pin(&AuthPin::new(pin.into()))
        .map_err(device("C_InitPIN"))?;
    session.logout().map_err(device("C_Logout"))
}
