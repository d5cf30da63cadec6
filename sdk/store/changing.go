package store

import "context"

// Changing is a Device whose disk may change while it is open: somebody makes it
// larger. A Device may implement it or leave it out.
type Changing interface {
	Device
	// Watch is called once, before the first Channel. From then on the device
	// calls changed whenever Info has become another, from any goroutine; changed
	// does not block, and does nothing once the device is closed. The engine asks
	// for Info afterwards, so several changes may be seen as one.
	Watch(changed func())
}

// Rescanner is a Device that learns of a change only when it looks. A Device may
// implement it or leave it out.
type Rescanner interface {
	Device
	// Rescan looks at what is behind the disk and makes Info say what is there
	// now. It is called when an operator orders so, off the reactors, one at a
	// time, and may block until ctx ends. After an error Info is as it was.
	Rescan(ctx context.Context) error
}
