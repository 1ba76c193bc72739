//! What `image build` prints, of an image of parts that are there already.

use std::ffi::OsStr;

use anyhow::ensure;
use serde_json::Value;
use sovereign_tests::call::{Call, Sovereign};
use sovereign_tests::images::Store;

use super::judge;
use super::schemas::Schemas;
use crate::suite::{Outcome, PASSED, skip};

pub(super) fn build_keeps_its_schema(sovereign: &Sovereign) -> Outcome {
    let store = Store::of_this_user()?;
    if !store.has_default() {
        return skip("no image was built");
    }
    let schemas = Schemas::new()?;
    let parts = store.default_parts()?;
    let data = tempfile::tempdir()?;
    let build = |kernel: &OsStr| -> Call {
        let call = ["image", "build", "--json", "--name", "own", "--kernel"].map(OsStr::new);
        let args =
            call.into_iter()
                .chain([kernel, OsStr::new("--rootfs"), parts.rootfs.as_os_str()]);
        sovereign.call(args).env("SOVEREIGN_DATA_DIR", data.path())
    };
    let built = judge(&schemas, "image-build", 0, build(parts.kernel.as_os_str()))?;
    ensure!(built["name"] == "own", "{built}");
    let count = |built: &Value| built["checks"].as_array().map(Vec::len);
    ensure!(count(&built).is_some_and(|count| count > 0), "{built}");
    let list = sovereign.call(["image", "ls", "--json"]);
    let list = list.env("SOVEREIGN_DATA_DIR", data.path());
    let known = judge(&schemas, "image-ls", 0, list)?;
    ensure!(known[0]["id"] == built["id"], "{known}");
    // The same once more is not checked again.
    let again = judge(&schemas, "image-build", 0, build(parts.kernel.as_os_str()))?;
    ensure!(
        again["id"] == built["id"] && count(&again) == Some(0),
        "{again}"
    );
    let wrong = judge(&schemas, "error", 125, build(parts.rootfs.as_os_str()))?;
    ensure!(wrong["error"]["code"] == "image-build", "{wrong}");
    PASSED
}
