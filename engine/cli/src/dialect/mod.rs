//! stunnel's place: its configuration files, followed as far as they can be.

mod agreement;
pub(crate) mod keys;
mod lines;
mod names;
mod program;
mod stunnel;
mod translate;

pub(crate) use names::called;
pub(crate) use stunnel::run;

/// What the services of a file become, for its fuzz target.
///
/// # Errors
/// What is wrong with it.
pub(crate) fn services(file: &[u8]) -> Result<Vec<Vec<String>>, String> {
    let plan = lines::Lines::parse(file).and_then(|lines| translate::translate(&lines));
    let plan = plan.map_err(|wrong| wrong.to_string())?;
    Ok(plan.services.into_iter().map(|service| service.arguments).collect())
}
