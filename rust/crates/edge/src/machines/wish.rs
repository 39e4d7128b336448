//! What a request asks of its machine: a region, one machine, or not a certain one. Pure.
//!
//! From a client's headers (spec/network.md §1.8) or from an app's `fly-replay` (§2.1).

use std::collections::BTreeMap;
use std::sync::Arc;

use hyper::header::{HeaderMap, HeaderName};

const PREFER_REGION: HeaderName = HeaderName::from_static("fly-prefer-region");
const FORCE_REGION: HeaderName = HeaderName::from_static("fly-force-region");
const PREFER_INSTANCE: HeaderName = HeaderName::from_static("fly-prefer-instance-id");
const FORCE_INSTANCE: HeaderName = HeaderName::from_static("fly-force-instance-id");

/// Of a list of regions no more than this is read.
const MOST_REGIONS: usize = 32;
/// How much worse any machine is than the one that was preferred.
const OTHER_MACHINE: u8 = 128;

/// Regions that one word stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Place {
    Any,
    One(Box<str>),
    These(Arc<[String]>),
}

/// What a request asks of its machine; the default asks nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Wish {
    /// In order of preference.
    regions: Vec<Place>,
    /// No other regions will do.
    regions_forced: bool,
    instance: Option<Arc<str>>,
    /// No other machine will do.
    instance_forced: bool,
    /// Any machine but this one.
    pub(crate) not: Option<Arc<str>>,
}

impl Wish {
    /// What a client's headers ask for; a forced machine goes before everything else.
    pub(crate) fn of_client(headers: &HeaderMap, aliases: &BTreeMap<String, Vec<String>>) -> Self {
        let word = |name| headers.get(name).and_then(|value| value.to_str().ok());
        let mut wish = Wish::default();
        if let Some(id) = word(FORCE_INSTANCE) {
            wish = wish.instance(id.trim(), true);
        } else if let Some(id) = word(PREFER_INSTANCE) {
            wish = wish.instance(id.trim(), false);
        }
        if let Some(list) = word(FORCE_REGION) {
            wish = wish.regions(list, true, aliases);
        } else if let Some(list) = word(PREFER_REGION) {
            wish = wish.regions(list, false, aliases);
        }
        wish
    }

    /// Ask for one machine.
    pub(crate) fn instance(mut self, id: &str, forced: bool) -> Self {
        self.instance = Some(id.into());
        self.instance_forced = forced;
        self
    }

    /// Ask for regions, as a list with commas.
    pub(crate) fn regions(
        mut self,
        list: &str,
        forced: bool,
        aliases: &BTreeMap<String, Vec<String>>,
    ) -> Self {
        let words = list
            .split(',')
            .map(str::trim)
            .filter(|word| !word.is_empty());
        let place = |word: &str| {
            let word = word.to_ascii_lowercase();
            match (word.as_str(), aliases.get(&word)) {
                ("any", _) => Place::Any,
                (_, Some(regions)) => Place::These(regions.clone().into()),
                _ => Place::One(word.into()),
            }
        };
        self.regions = words.take(MOST_REGIONS).map(place).collect();
        self.regions_forced = forced && !self.regions.is_empty();
        self
    }

    /// Whether anything is asked for.
    pub(crate) fn is_any(&self) -> bool {
        self.regions.is_empty() && self.instance.is_none() && self.not.is_none()
    }

    /// Whether a machine may be one that will not do: all else are preferences.
    pub(crate) fn is_forced(&self) -> bool {
        let regions = self.regions_forced && !self.regions.contains(&Place::Any);
        regions || self.instance_forced || self.not.is_some()
    }

    /// The machine that was preferred, if it is another one than this.
    pub(crate) fn missed(&self, machine: &str) -> Option<&Arc<str>> {
        let preferred = self.instance.as_ref().filter(|_| !self.instance_forced);
        preferred.filter(|id| &***id != machine)
    }

    /// How well a machine fits, less is better; `None` when it will not do.
    pub(crate) fn rank(&self, machine: &str, region: &str) -> Option<u8> {
        if self.not.as_deref() == Some(machine) {
            return None;
        }
        let other = match &self.instance {
            Some(id) if **id == *machine => 0,
            Some(_) if self.instance_forced => return None,
            Some(_) => OTHER_MACHINE,
            None => 0,
        };
        let is_in = |place: &Place| match place {
            Place::Any => true,
            Place::One(code) => **code == *region,
            Place::These(codes) => codes.iter().any(|code| code == region),
        };
        let place = match self.regions.iter().position(is_in) {
            Some(at) => at,
            None if self.regions_forced => return None,
            None => self.regions.len(),
        };
        Some(other + u8::try_from(place).unwrap_or(OTHER_MACHINE - 1))
    }
}

#[cfg(test)]
mod tests {
    use hyper::header::HeaderValue;
    use proptest::prelude::*;

    use super::*;

    fn aliases() -> BTreeMap<String, Vec<String>> {
        let us = ["iad", "ord"].map(str::to_owned).to_vec();
        BTreeMap::from([("us".to_owned(), us)])
    }

    fn of_client(lines: &[(&'static str, &'static str)]) -> Wish {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(*name, HeaderValue::from_static(value));
        }
        Wish::of_client(&headers, &aliases())
    }

    #[test]
    fn without_a_wish_all_are_equal() {
        let wish = of_client(&[]);
        assert!(wish.is_any());
        assert_eq!(wish.rank("m1", "fra"), Some(0));
    }

    #[test]
    fn preferred_regions_go_first_in_their_order_and_the_others_after() {
        let wish = of_client(&[("fly-prefer-region", "FRA, us,")]);
        let ranks = ["fra", "ord", "iad", "nrt"].map(|region| wish.rank("m1", region));
        assert_eq!(ranks, [Some(0), Some(1), Some(1), Some(2)]);
    }

    #[test]
    fn outside_forced_regions_is_nothing_unless_any_is_among_them() {
        let wish = of_client(&[("fly-force-region", "fra,us")]);
        let ranks = ["fra", "iad", "nrt"].map(|region| wish.rank("m1", region));
        assert_eq!(ranks, [Some(0), Some(1), None]);
        assert!(wish.is_forced());
        let wish = of_client(&[("fly-force-region", "fra,any")]);
        assert_eq!(wish.rank("m1", "nrt"), Some(1));
        assert!(!wish.is_forced());
    }

    #[test]
    fn a_preferred_machine_is_the_best_and_a_forced_one_the_only() {
        let wish = of_client(&[
            ("fly-prefer-instance-id", "m1"),
            ("fly-prefer-region", "fra"),
        ]);
        let ranks = [("m1", "nrt"), ("m2", "fra"), ("m3", "nrt")];
        let ranks = ranks.map(|(machine, region)| wish.rank(machine, region));
        assert!(ranks[0] < ranks[1] && ranks[1] < ranks[2], "{ranks:?}");
        assert!(!wish.is_forced());
        assert_eq!(wish.missed("m2").map(|id| &**id), Some("m1"));
        assert_eq!(wish.missed("m1"), None);
        let wish = of_client(&[
            ("fly-force-instance-id", "m1"),
            ("fly-prefer-instance-id", "m2"),
        ]);
        assert_eq!(
            (wish.rank("m1", "fra"), wish.rank("m2", "fra")),
            (Some(0), None)
        );
        assert_eq!(wish.missed("m2"), None);
    }

    proptest! {
        #[test]
        fn any_list_can_be_asked_for(list in "[ -~]{0,300}", region in "[a-z]{3}") {
            let wish = Wish::default().regions(&list, true, &aliases());
            prop_assert!(wish.regions.len() <= MOST_REGIONS);
            prop_assert!(wish.rank("m", &region).is_none_or(|rank| rank < OTHER_MACHINE));
        }
    }
}
