//! What a site file means, beyond its form: whether it can be a data centre.

use super::Site;
use super::config::fault::Sink;
use super::config::schema::SiteFile;
use crate::accelerators::AcceleratorCatalogue;

/// Checks sections against each other; faults go to `sink`.
pub(crate) fn check(_file: &SiteFile, _catalogue: &AcceleratorCatalogue, _sink: &Sink) {}

/// Checks the names of the expanded site and fills its index of names.
pub(crate) fn check_names(_site: &Site, _file: &SiteFile, _sink: &Sink) {}
