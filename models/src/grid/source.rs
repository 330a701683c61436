//! Sources of electricity as ENTSO-E's transparency platform tells them apart.

use std::fmt;

macro_rules! sources {
    ($($(#[$doc:meta])* $name:ident = $psr:literal, $word:literal;)*) => {
        /// A source of electricity.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Source { $($(#[$doc])* $name,)* }

        impl Source {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$name),*];

            /// ENTSO-E's code of the production type, `B01` to `B25`.
            pub const fn psr(self) -> &'static str {
                match self { $(Self::$name => $psr,)* }
            }

            /// Its name in files: that of its column without the unit.
            pub const fn word(self) -> &'static str {
                match self { $(Self::$name => $word,)* }
            }
        }
    };
}

sources! {
    /// Biomass.
    Biomass = "B01", "biomass";
    /// Lignite.
    Lignite = "B02", "brown_coal_lignite";
    /// Gas made of coal.
    CoalGas = "B03", "coal_derived_gas";
    /// Natural gas.
    Gas = "B04", "gas";
    /// Hard coal.
    HardCoal = "B05", "hard_coal";
    /// Oil.
    Oil = "B06", "oil";
    /// Oil shale.
    OilShale = "B07", "oil_shale";
    /// Peat.
    Peat = "B08", "peat";
    /// Geothermal.
    Geothermal = "B09", "geothermal";
    /// Pumped storage, generating.
    PumpedStorage = "B10", "hydro_pumped_storage";
    /// Run-of-river.
    RunOfRiver = "B11", "hydro_run_of_river_and_poundage";
    /// Reservoirs.
    Reservoir = "B12", "hydro_water_reservoir";
    /// Tides and waves.
    Marine = "B13", "marine";
    /// Nuclear.
    Nuclear = "B14", "nuclear";
    /// Other renewable.
    OtherRenewable = "B15", "other_renewable";
    /// Solar.
    Solar = "B16", "solar";
    /// Waste.
    Waste = "B17", "waste";
    /// Wind at sea.
    WindOffshore = "B18", "wind_offshore";
    /// Wind on land.
    WindOnshore = "B19", "wind_onshore";
    /// Anything else.
    Other = "B20", "other";
    /// Batteries and other storage.
    Storage = "B25", "energy_storage";
}

impl Source {
    /// From a column's name, with or without its unit: `biomass_mw`, `biomass`.
    pub fn from_column(column: &str) -> Option<Self> {
        let word = column.strip_suffix("_mw").unwrap_or(column);
        Self::ALL.iter().copied().find(|s| s.word() == word)
    }

    /// From ENTSO-E's code.
    pub fn from_psr(psr: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|s| s.psr() == psr)
    }

    /// Whether it gives back what it took earlier.
    pub const fn is_storage(self) -> bool {
        matches!(self, Self::PumpedStorage | Self::Storage)
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.word())
    }
}
