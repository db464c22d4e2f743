//! Watching code when the host has no mappings left (vm.max_map_count). Alone in its process: nothing else gets any either.

use std::sync::Arc;
use xlat86_arch::Gva;
use xlat86_host::{Ram, ShadowWindow, scratch_low};
use xlat86_softmmu::{CodeWrite, FlatSpace, Prot, Watch};

const CODE: u32 = 0x0100_0000;
const PAGES: u32 = 16;

/// Takes all mappings that there are, from page `from` of `window` on; gives the page that there was none for.
fn exhaust(window: &mut ShadowWindow, from: u32) -> u32 {
    // All of the same page, so that no two become one.
    (from..).find(|page| window.map(page << 12, 0, 0x1000, true).is_err()).unwrap()
}

fn at(page: u32) -> Gva {
    Gva(CODE + (page << 12))
}

#[test]
fn code_is_watched_or_known_not_to_be() {
    let mut window = ShadowWindow::new(Arc::new(Ram::new(0x1000).unwrap())).unwrap();
    let low = scratch_low(&[CODE..CODE + (PAGES << 12)]).unwrap();
    let space = FlatSpace::new(low);
    let prot = Prot { mapped: true, read: true, write: true, exec: true, shared: false };
    space.set_prot(at(0), PAGES << 12, prot);

    let mut next = exhaust(&mut window, 0);
    assert!(next > 1000, "{next}: the host's limit is said to be 65,530");
    assert_eq!(space.mark_code(at(8)), Watch::Volatile);
    assert!(space.is_volatile(at(8)) && !space.page(at(8)).is_code());
    low.write(at(8).0, 1u8).unwrap();

    // A few can be had for the pages 2 to 4.
    window.unmap(0, 4 << 12);
    for page in 2..5 {
        assert_eq!(space.mark_code(at(page)), Watch::Kept);
        assert!(low.write(at(page).0, 1u8).is_err());
    }
    next = exhaust(&mut window, next);
    assert!(next > 1000);
    let first = at(0).page();
    assert_eq!(space.resolve_write(at(3)), CodeWrite::Dropped(first + 2..first + 5));
    for page in 2..5 {
        assert!(!space.page(at(page)).is_code());
        low.write(at(page).0, 1u8).unwrap();
    }
}
