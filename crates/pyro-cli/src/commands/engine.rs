//! The `--engine` option.

use pyro_core::machine::EngineChoice;

/// One of the words that name an engine.
pub(crate) fn parse_engine(text: &str) -> Result<EngineChoice, String> {
    match text {
        "auto" => Ok(EngineChoice::Auto),
        "kvm" => Ok(EngineChoice::Kvm),
        "emulated" => Ok(EngineChoice::Emulated),
        other => Err(format!("`{other}` is not auto, kvm or emulated")),
    }
}
