//! stunnel's and efs-proxy's places: their names, and their configuration files, followed as far as they can be.

mod agreement;
pub(crate) mod efs_proxy;
pub(crate) mod keys;
pub(crate) mod lines;
mod names;
mod program;
mod stunnel;
mod translate;

pub(crate) use names::called;
pub(crate) use stunnel::run;

/// What the services of a file become in each dialect, for its fuzz target; or what is wrong with it.
pub(crate) fn services(file: &[u8]) -> Vec<Result<Vec<Vec<String>>, String>> {
    let ways: [&dyn Fn(&lines::Lines) -> _; 3] =
        [&translate::translate, &|lines| efs_proxy::translate(lines, true), &|lines| {
            efs_proxy::translate(lines, false)
        }];
    let services = |plan: translate::Plan| plan.services.into_iter().map(|service| service.arguments).collect();
    let lines = lines::Lines::parse(file);
    let of = |way: &&dyn Fn(&lines::Lines) -> _| lines.clone().and_then(|lines| way(&lines));
    ways.iter().map(|way| of(way).map(services).map_err(|wrong| wrong.to_string())).collect()
}
