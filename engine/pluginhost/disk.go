package pluginhost

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"

	"blockengine/engine/config"
	"blockengine/engine/reactor"
	"blockengine/engine/session"
	"blockengine/engine/transport"
	"blockengine/engine/volume"
)

// Disk is a volume of the configuration with the plugin that it stands on. Its
// methods are safe from any goroutine but a reactor's.
type Disk struct {
	Volume *volume.Volume
	Config config.Volume

	identity *Identity
	reactors []*reactor.Reactor
	home     *reactor.Reactor
	log      *slog.Logger // says nothing of the volume yet

	cancel context.CancelFunc // ends the opening of a store
	opened chan struct{}      // closed when nobody is at opening any more

	linked atomic.Pointer[linkedDisk] // of a store that is linked in, while it is open

	// mu guards session, which comes once, and what an upgrade changes: what
	// the volume runs, and its options as that knows them.
	mu      sync.Mutex
	session *session.Session
	plugin  *Plugin
	values  Values
}

// DiskOptions say what a Disk is made of.
type DiskOptions struct {
	Config   config.Volume
	Plugin   *Plugin
	Values   Values // from Plugin.Check
	Identity *Identity
	Reactors []*reactor.Reactor
	Home     *reactor.Reactor // where the first connection, or link, lives
	Log      *slog.Logger
}

// NewDisk makes a Disk whose volume is Opening. Start opens it.
func NewDisk(o DiskOptions) *Disk {
	return &Disk{
		Config: o.Config, plugin: o.Plugin, values: o.Values, identity: o.Identity,
		reactors: o.Reactors, home: o.Home, log: o.Log,
		Volume: volume.New(volume.Options{
			Name: o.Config.Name, ReadOnly: o.Config.ReadOnly, Reactors: o.Reactors, Log: o.Log}),
		cancel: func() {}, opened: make(chan struct{}),
	}
}

// Start begins to open the volume and does not wait for it: its State tells
// what has become of it, and what keeps failing is tried again until Close. An
// error means that it cannot even be tried. Start is called once.
func (d *Disk) Start() error {
	if d.Plugin().store != nil {
		ctx, cancel := context.WithCancel(context.Background())
		d.cancel = cancel
		go d.openStore(ctx)
		return nil
	}
	defer close(d.opened)
	return d.openSession()
}

// openSession hands the volume to a session, which connects and reconnects.
func (d *Disk) openSession() error {
	id, err := d.identity.Session(d.Config.Name)
	if err != nil {
		return fmt.Errorf("volume %q: %w", d.Config.Name, err)
	}
	v, p, values := &d.Config, d.Plugin(), d.optionValues()
	s, err := session.Open(session.Options{
		Volume: d.Volume, Generation: p.generation(values, len(d.reactors)),
		Paths: paths(v), Reactors: d.reactors, Home: d.home,
		Connections: v.Connections, ReadOnly: v.ReadOnly, Timeout: v.Timeout, Fence: v.Fence,
		TrustCache: v.OnLostCache == config.LostCacheTrust,
		HostID:     d.identity.Host(), SessionID: id,
		Log: d.log.With("plugin", p.Name),
	})
	if err != nil {
		return err
	}
	d.mu.Lock()
	d.session = s
	d.mu.Unlock()
	return nil
}

// paths gives the volume's paths, preferred ones first.
func paths(v *config.Volume) []transport.Address {
	sorted := slices.Clone(v.Paths)
	slices.SortStableFunc(sorted, func(a, b config.Path) int { return a.Priority - b.Priority })
	list := make([]transport.Address, len(sorted))
	for i, p := range sorted {
		list[i] = transport.Address(p.Address)
	}
	return list
}

// Plugin is what the volume runs now; an upgrade changes it.
func (d *Disk) Plugin() *Plugin {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.plugin
}

// optionValues are the volume's options as its plugin knows them.
func (d *Disk) optionValues() Values {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.values
}

// Session is what a volume stands on unless its store is linked in: nil then.
func (d *Disk) Session() *session.Session {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.session
}

// Shown gives the volume's options without secrets.
func (d *Disk) Shown() map[string]string { return d.optionValues().Shown() }

// Close flushes the volume, takes leave of its server and releases it. The
// volume's queues have been closed before. It comes back when that is done, or
// soon after ctx has ended; what was written is then as safe as the errors say.
func (d *Disk) Close(ctx context.Context) error {
	d.cancel()
	select {
	case <-d.opened:
	case <-ctx.Done():
		return fmt.Errorf("volume %q: the plugin is still opening it: %w", d.Config.Name, ctx.Err())
	}
	if l := d.linked.Swap(nil); l != nil {
		l.close()
	}
	err := d.Volume.Close(ctx)
	if s := d.Session(); s != nil {
		// A session that never got online is not the volume's device yet.
		err = errors.Join(err, s.Close())
	}
	return err
}
