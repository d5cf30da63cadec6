package main

import (
	"context"
	"os"
	"time"
)

// lookEvery is how often a disk that watches its file looks at it.
const lookEvery = 20 * time.Millisecond

// Rescan implements store.Rescanner.
func (d *disk) Rescan(context.Context) error {
	st, err := d.f.Stat()
	if err != nil {
		return err
	}
	d.setSize(st)
	return nil
}

func (d *disk) setSize(st os.FileInfo) (changed bool) {
	return d.size.Swap(uint64(st.Size())) != uint64(st.Size())
}

// watchful is a disk that says by itself that its file has another size.
type watchful struct{ *disk }

// Watch implements store.Changing.
func (w watchful) Watch(changed func()) {
	go func() {
		for {
			st, err := w.f.Stat()
			if err != nil {
				return // it is closed
			}
			if w.setSize(st) {
				changed()
			}
			time.Sleep(lookEvery)
		}
	}()
}
