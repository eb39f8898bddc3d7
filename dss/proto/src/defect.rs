//! One-line defects behind a switch, to see that the model and the simulator catch what they are there for.
//!
//! Code asks [`planted`] at the place of a rule, of a hazard (HZ-n) or an invariant. Without the feature `defects`, which only
//! the test package turns on, the answer is a constant `false` and nothing is left of the question.
//! The switch belongs to a thread, because a simulated cluster and a model's transition run on one.

macro_rules! defects {
    ($($(#[doc = $doc:literal])+ $name:ident,)*) => {
        /// A defect that can be planted; each breaks one rule in one line.
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
        pub enum Defect {
            $($(#[doc = $doc])+ $name,)*
        }

        impl Defect {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$name),*];

            /// Its name, as the command line takes it.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$name => stringify!($name),)*
                }
            }
        }
    };
}

defects! {
    /// HZ-4: a holder obeys an Invalidate whose conversion it has already left behind.
    ObeyStaleInvalidate,
}

impl Defect {
    /// The defect of this name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|defect| defect.name() == name)
    }
}

#[cfg(feature = "defects")]
mod switch {
    use super::Defect;
    use core::cell::Cell;

    std::thread_local! {
        static PLANTED: Cell<Option<Defect>> = const { Cell::new(None) };
    }

    /// Plants a defect in what this thread runs from now on, or none.
    pub fn plant(defect: Option<Defect>) {
        PLANTED.set(defect);
    }

    /// Whether this defect is planted here.
    pub fn planted(defect: Defect) -> bool {
        PLANTED.get() == Some(defect)
    }
}

#[cfg(not(feature = "defects"))]
mod switch {
    use super::Defect;

    /// Whether this defect is planted here: never, without the feature.
    #[inline(always)]
    pub const fn planted(_: Defect) -> bool {
        false
    }
}

#[cfg(feature = "defects")]
pub use switch::plant;
pub use switch::planted;
