package pluginhost

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"blockengine/engine/pluginhost/guest"
	"blockengine/engine/pluginhost/recording"
	"blockengine/engine/session"
	"blockengine/sdk/manifest"
)

// RecordRequest is an operator's order to record what crosses the seam of a
// plugin.
type RecordRequest struct {
	Plugin  string
	Volume  string        // "" if the plugin has one only
	For     time.Duration // above 0
	Payload bool          // of a plugin that transforms payload, record that too
	Limit   int64         // bytes of the recording, 0: none
	Engine  string        // its version, for the header
}

// Record writes a recording to w (package recording says in which form) until
// its time is over, it is as long as it may be, w fails or ctx ends. Nothing has
// been written if it cannot begin.
func (u *Upgrader) Record(ctx context.Context, r RecordRequest, w io.Writer) error {
	l, err := u.line(r.Plugin)
	if err != nil {
		return err
	}
	d, err := l.recordable(r.Volume)
	if err != nil {
		return err
	}
	p := d.Plugin()
	rec, err := recording.NewRecorder(w, recording.Options{Limit: r.Limit, Secrets: d.optionValues().secrets(), Header: headerOf(d, p, r)})
	if err != nil {
		return err
	}
	t, err := u.observe(ctx, d, r.For, rec)
	if err != nil {
		return fmt.Errorf("volume %q: %w", d.Config.Name, err)
	}
	t, err = rec.Finish(t)
	l.log.Info("recording ended", "volume", d.Config.Name, "reason", t.Reason, "connections", t.Connections, "lost", t.Lost, "err", err)
	return err
}

// observe has a recorder see a volume's connections for a while.
func (u *Upgrader) observe(ctx context.Context, d *Disk, how time.Duration, rec *recording.Recorder) (t recording.Trailer, err error) {
	if !u.enter() {
		return t, errEngineEnds
	}
	defer u.recordings.Done()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(u.life, func() { cancel(errEngineEnds) })()
	seen, err := d.Session().Observe(ctx, session.Observer{Join: func(o session.ConnOpening) (guest.Tap, error) {
		return rec.Tap(recording.Opening{Number: o.Number, Reactor: o.Reactor, Opened: o.Opened, Resumed: o.Resumed, Limits: o.Limits}), nil
	}})
	if err != nil {
		return t, err
	}
	defer seen.Stop()
	u.opt.Log.Info("recording", "volume", d.Config.Name, "for", how, "connections", seen.Joined, "pause", seen.Pause)
	rec.Start()
	return recording.Trailer{Reason: u.awaitRecording(ctx, how, rec), Joined: seen.Joined, Pause: seen.Pause.Seconds()}, nil
}

// awaitRecording says why a recording ends.
func (u *Upgrader) awaitRecording(ctx context.Context, d time.Duration, rec *recording.Recorder) string {
	end := time.NewTimer(d)
	defer end.Stop()
	select {
	case <-end.C:
		return "its time is over"
	case <-ctx.Done():
		if u.life.Err() != nil {
			return errEngineEnds.Error()
		}
		return "nobody reads it any more"
	case <-rec.Over():
		return "it cannot go on"
	}
}

// enter counts a recording that Close waits for. It is false once that has begun.
func (u *Upgrader) enter() bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.closed {
		return false
	}
	u.recordings.Add(1)
	return true
}

// recordable finds the volume that is to be recorded.
func (l *line) recordable(name string) (*Disk, error) {
	if l.kind != Protocol {
		return nil, fmt.Errorf("%q is a store plugin: only what crosses the seam of protocol plugins can be recorded", l.name)
	}
	var found *Disk
	names := make([]string, 0, len(l.disks))
	for _, d := range l.disks {
		names = append(names, d.Config.Name)
		if d.Config.Name == name || name == "" && len(l.disks) == 1 {
			found = d
		}
	}
	switch {
	case found == nil && name == "" && len(names) == 0:
		return nil, fmt.Errorf("no volume stands on plugin %q", l.name)
	case found == nil && name == "":
		return nil, fmt.Errorf("several volumes stand on plugin %q: name one of %s with --volume", l.name, strings.Join(names, ", "))
	case found == nil:
		return nil, fmt.Errorf("no volume %.80q stands on plugin %q; those that do: %s", name, l.name, strings.Join(names, ", "))
	case found.Session() == nil:
		return nil, errors.New("the volume is not open yet: try again when the engine says that it is ready")
	}
	return found, nil
}

func headerOf(d *Disk, p *Plugin, r RecordRequest) recording.Header {
	h := recording.Header{Plugin: p.Name, Name: p.ManifestName, Version: p.Version, Hash: p.Hash, Runtime: string(p.Runtime),
		ABI: p.ABI, Volume: d.Config.Name, Engine: r.Engine, Began: time.Now(), Payload: r.Payload,
		Copies: p.module.Manifest().Payload == manifest.Copy}
	for _, o := range p.Options {
		if o.Secret {
			h.Secrets = append(h.Secrets, o.Name)
		}
	}
	return h
}

// secrets are the values that must not be shown.
func (v Values) secrets() (list [][]byte) {
	for _, val := range v.values {
		if val.option.Secret && val.text != "" {
			list = append(list, []byte(val.text))
		}
	}
	return list
}
