//! The window that is the host's low 4 GB. Alone in its process: nothing else may be there.

use std::sync::Arc;
use xlat86_host::{Ram, ShadowWindow, offer_low_window, scratch_low, unmap_scratch_low};

#[test]
fn one_window_may_be_the_low_one() {
    let ram = Arc::new(Ram::new(0x4000).unwrap());
    let lowest = || ShadowWindow::lowest(ram.clone()).unwrap();
    assert_ne!(lowest().window().base(), 0, "nobody has offered it");
    offer_low_window();
    let mut low = lowest();
    let view = low.window();
    assert_eq!(view.base(), 0);
    assert_ne!(lowest().window().base(), 0, "there is one");
    assert_ne!(ShadowWindow::new(ram.clone()).unwrap().window().base(), 0);

    for page in [0x1_0000, 0xffff_f000] {
        low.map(page, 0x2000, 0x1000, true).unwrap();
        view.write(page + 8, page).unwrap();
        assert_eq!(ram.read::<u32>(0x2008), Some(page));
    }
    assert!(low.map(0xf000, 0, 0x1000, false).is_err(), "where null pointers lead");
    assert!(view.read::<u8>(0).is_err());
    let fault = view.read::<u32>(0xffff_fffe).unwrap_err().0;
    assert_eq!(low.guest(fault.addr), None, "behind the window");
    drop(low);
    assert!(view.read::<u8>(0x1_0000).is_err(), "nothing remains");
    assert_eq!(lowest().window().base(), 0, "free again");

    let taken = 0x800_0000..0x800_1000;
    scratch_low(std::slice::from_ref(&taken)).unwrap().write(taken.start, 7u8).unwrap();
    assert_ne!(lowest().window().base(), 0, "somebody else is there");
    assert_eq!(view.read::<u8>(taken.start).unwrap(), 7, "and stays");
    unmap_scratch_low(std::slice::from_ref(&taken));
    assert_eq!(lowest().window().base(), 0);
}
