//! Handles: numbers that programs have for what is open.
//!
//! Rule CAPI-3: a handle is its kind, a place in a table, and the generation of that place. What was closed, is of another kind, or was
//! never given is `AQ_BAD_HANDLE` and touches no memory. A place is given up rather than used more often than it has generations.

use crate::abi::aq_error;
use crate::border::{Answer, Failure};
use parking_lot::Mutex;
use std::sync::Arc;

/// Bits of the place in the table ...
const PLACE_BITS: u32 = 24;
/// ... and of its generation; the kind is above.
const GENERATION_BITS: u32 = 36;

struct Place<T> {
    generation: u64,
    content: Option<Arc<T>>,
}

struct Places<T> {
    all: Vec<Place<T>>,
    free: Vec<usize>,
}

/// What is open of one kind. Whoever looks something up keeps it alive while it works with it, also when it is closed meanwhile.
pub struct Table<T> {
    kind: u64,
    places: Mutex<Places<T>>,
}

impl<T> Table<T> {
    /// Of the kind with this number, 1 to 15.
    pub const fn new(kind: u64) -> Self {
        let places = Places {
            all: Vec::new(),
            free: Vec::new(),
        };
        Self {
            kind,
            places: Mutex::new(places),
        }
    }

    /// Opens something; its handle.
    pub fn open(&self, content: Arc<T>) -> Answer<u64> {
        let mut places = self.places.lock();
        let place = match places.free.pop() {
            Some(place) => place,
            None if places.all.len() < 1 << PLACE_BITS => {
                places.all.push(Place {
                    generation: 1,
                    content: None,
                });
                places.all.len() - 1
            }
            None => return Err(Failure::new(aq_error::AQ_BUSY, "too many handles are open")),
        };
        let slot = &mut places.all[place];
        slot.content = Some(content);
        Ok(self.kind << (PLACE_BITS + GENERATION_BITS) | slot.generation << PLACE_BITS | place as u64)
    }

    /// The place of a handle that is open.
    fn place(&self, places: &Places<T>, handle: u64) -> Answer<usize> {
        let place = (handle & ((1 << PLACE_BITS) - 1)) as usize;
        let generation = handle >> PLACE_BITS & ((1 << GENERATION_BITS) - 1);
        let is_open = handle >> (PLACE_BITS + GENERATION_BITS) == self.kind
            && places
                .all
                .get(place)
                .is_some_and(|slot| slot.generation == generation && slot.content.is_some());
        if !is_open {
            return Err(Failure::new(
                aq_error::AQ_BAD_HANDLE,
                format!("{handle:#x} is not an open handle of this kind"),
            ));
        }
        Ok(place)
    }

    /// What a handle is for.
    pub fn get(&self, handle: u64) -> Answer<Arc<T>> {
        let places = self.places.lock();
        let place = self.place(&places, handle)?;
        Ok(places.all[place].content.clone().expect("the place is open"))
    }

    /// Closes a handle; what it was for.
    pub fn close(&self, handle: u64) -> Answer<Arc<T>> {
        let mut places = self.places.lock();
        let place = self.place(&places, handle)?;
        let slot = &mut places.all[place];
        let content = slot.content.take().expect("the place is open");
        slot.generation += 1;
        if slot.generation < 1 << GENERATION_BITS {
            places.free.push(place);
        }
        Ok(content)
    }

    /// Whether something that is open is as `matches` says.
    pub fn any(&self, matches: impl FnMut(&T) -> bool) -> bool {
        let places = self.places.lock();
        let mut open = places.all.iter().filter_map(|slot| slot.content.as_deref());
        open.any(matches)
    }
}
