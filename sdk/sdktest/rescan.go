package sdktest

import (
	"context"
	"time"

	"blockengine/sdk/block"
	"blockengine/sdk/store"
)

// rescanLimit is how long a look may take.
const rescanLimit = 30 * time.Second

// rescan has the plugin look at what is behind its disk while requests are
// outstanding, if it can. Nobody has changed anything there: what it finds has to
// be the same disk, and nothing may fail.
func (h *StoreHarness) rescan(t TB) {
	d, l := h.disk(t)
	r, ok := d.Device.(store.Rescanner)
	if !ok {
		t.Skip("the disk cannot be looked at while it is open")
	}
	ctx, cancel := context.WithTimeout(context.Background(), rescanLimit)
	defer cancel()
	all := many(d, 500)
	l.submit(all...)
	for range 3 {
		if err := r.Rescan(ctx); err != nil {
			t.Fatalf("a look at the disk fails: %v%s", err, inStores.suffix())
		}
		now := d.Info()
		if wrong := otherThan(&d.info, &now); wrong != "" {
			t.Errorf("after a look at the disk %s: it is %+v, and was %+v%s", wrong, now, d.info, inStores.suffix())
		}
	}
	l.wait(t)
	wentWell(t, all)
}

// otherThan says what must not change while a disk is open, and has, "" if nothing.
func otherThan(old, now *block.Info) string {
	switch {
	case WrongInfo(now) != "":
		return WrongInfo(now)
	case now.Identity != old.Identity:
		return "it is another disk"
	case now.BlockSize != old.BlockSize || now.MaxTransfer != old.MaxTransfer:
		return "its block size, or what it takes at a time, is another"
	case now.Size < old.Size:
		return "it is smaller"
	}
	return ""
}
