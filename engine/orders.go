package main

import (
	"context"
	"encoding/hex"
	"fmt"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"blockengine/engine/admin"
	"blockengine/engine/config"
	"blockengine/engine/pluginhost"
	"blockengine/engine/session"
)

// maxShadow is the longest that a version may be run beside another one.
const maxShadow = 24 * time.Hour

// maxDrain is the longest that an order may have requests waited for.
const maxDrain = 10 * time.Minute

// orders is what the engine can be told to do while it runs.
type orders struct {
	upgrader *pluginhost.Upgrader // nil until the volumes are made

	mu   sync.Mutex        // guards what follows
	kept map[string]string // drop-ins by plugin, as the next start will find them
}

// takeOrders lets plugins be upgraded from now on.
func (e *engine) takeOrders() (err error) {
	e.orders.kept = map[string]string{}
	for _, p := range e.cfg.Plugins {
		if p.DropIn != "" {
			e.orders.kept[p.Name] = p.DropIn
		}
	}
	e.orders.upgrader, err = pluginhost.NewUpgrader(pluginhost.UpgraderOptions{Config: e.cfg, Registry: e.registry,
		Disks: e.disks, StateDir: e.state.path, Save: e.keep, Log: e.log})
	return err
}

// endOrders gives up what is under way, and waits for that until ctx ends.
func (e *engine) endOrders(ctx context.Context) {
	if u := e.orders.upgrader; u != nil {
		u.Close(ctx)
	}
}

// dropIn is the plugin's drop-in as the next start will find it, "" for none.
func (o *orders) dropIn(plugin string) string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.kept[plugin]
}

// sourceOf says what would have to be configured to load a plugin again.
func sourceOf(p *pluginhost.Plugin) config.Source {
	if p.Runtime == config.RuntimeBuiltin {
		return config.Source{Runtime: p.Runtime}
	}
	return config.Source{Runtime: p.Runtime, Path: p.Path, SHA256: p.Hash}
}

// keep makes a restart load the plugin as it runs now.
func (e *engine) keep(p *pluginhost.Plugin) error {
	e.orders.mu.Lock()
	defer e.orders.mu.Unlock()
	file, err := e.cfg.Keep(p.Name, sourceOf(p), "engine "+version+", told so with --save", time.Now())
	if err == nil {
		e.orders.kept[p.Name] = file
	}
	return err
}

// Upgrade implements admin.Source.
func (e *engine) Upgrade(plugin string, r admin.UpgradeRequest, report func(admin.Event)) error {
	req, err := upgradeRequest(plugin, r)
	if err != nil {
		return err
	}
	return e.order(plugin, func() error {
		return e.orders.upgrader.Upgrade(context.Background(), req, func(n pluginhost.Event) { report(e.eventOf(n)) })
	})
}

// Rollback implements admin.Source.
func (e *engine) Rollback(plugin string, r admin.RollbackRequest, report func(admin.Event)) error {
	drain, err := checkHow(r.Method, r.Drain)
	if err != nil {
		return err
	}
	req := pluginhost.RollbackRequest{Plugin: plugin, Volumes: r.Volumes, Method: r.Method, Drain: drain, Save: r.Save}
	return e.order(plugin, func() error {
		return e.orders.upgrader.Rollback(context.Background(), req, func(n pluginhost.Event) { report(e.eventOf(n)) })
	})
}

// order carries out an order. It ends with the upgrader, so with the engine.
func (e *engine) order(plugin string, do func() error) error {
	if e.draining.Load() {
		return admin.Refuse(http.StatusServiceUnavailable, "the engine ends")
	}
	err := do()
	if err != nil && e.registry.Find(plugin) == nil {
		return admin.Refuse(http.StatusNotFound, "%v", err)
	}
	return err
}

// upgradeRequest checks an order that came over the wire; the error is
// *admin.Refusal.
func upgradeRequest(plugin string, r admin.UpgradeRequest) (pluginhost.UpgradeRequest, error) {
	u := pluginhost.UpgradeRequest{Plugin: plugin, Path: r.Path, SHA256: strings.ToLower(r.SHA256), Volumes: r.Volumes,
		Method: r.Method, Watch: -1, Save: r.Save}
	switch {
	case r.Builtin && (r.Path != "" || r.SHA256 != ""):
		return u, admin.Refuse(http.StatusBadRequest, "the builtin plugin has neither a file nor a hash")
	case !r.Builtin && r.Path == "":
		return u, admin.Refuse(http.StatusBadRequest, "the order names no file")
	case !r.Builtin && !filepath.IsAbs(r.Path):
		return u, admin.Refuse(http.StatusBadRequest, "%q is a relative path, and the engine's directory is another one", r.Path)
	case r.SHA256 != "" && !isSHA256(r.SHA256):
		return u, admin.Refuse(http.StatusBadRequest, "%q is no SHA-256 hash: write 64 hex digits", r.SHA256)
	}
	var err error
	if u.Drain, err = checkHow(r.Method, r.Drain); err != nil {
		return u, err
	}
	if r.Watch != nil {
		u.Watch, err = fromSeconds("watch", *r.Watch, config.MaxWatch)
	}
	if err == nil {
		u.Shadow, err = fromSeconds("shadow", r.Shadow, maxShadow)
	}
	return u, err
}

// checkHow checks what orders have in common.
func checkHow(method string, drain float64) (time.Duration, error) {
	if method != "" {
		if _, ok := session.ParseMethod(method); !ok {
			return 0, admin.Refuse(http.StatusBadRequest, "there is no method %q: %s", method, methodHelp)
		}
	}
	return fromSeconds("drain", drain, maxDrain)
}

const methodHelp = "write handover, second-session or serial"

func fromSeconds(what string, s float64, limit time.Duration) (time.Duration, error) {
	if !(s >= 0 && s <= limit.Seconds()) {
		return 0, admin.Refuse(http.StatusBadRequest, "%s of %v seconds is out of range: choose from 0 to %v", what, s, limit)
	}
	return time.Duration(s * float64(time.Second)), nil
}

func isSHA256(s string) bool {
	b, err := hex.DecodeString(s)
	return err == nil && len(b) == 32
}

func (e *engine) eventOf(n pluginhost.Event) admin.Event {
	a := admin.Event{Time: n.Time, Phase: string(n.Phase), Plugin: n.Plugin, Volume: n.Volume, Method: n.Method,
		Pause: n.Pause.Seconds(), Text: n.Text}
	if f := n.Shadow; f != nil {
		a.Shadow = &admin.Shadow{Connections: f.Connections, Requests: f.Requests, Calls: f.Calls, Dropped: f.Dropped,
			Seconds: f.Lasted.Seconds(), Spent: f.Spent.Seconds()}
	}
	if n.Phase == pluginhost.PhaseDone && n.Text == "" {
		a.Text = e.runs(n.Plugin)
	}
	return a
}

// runs says which versions of a plugin run now.
func (e *engine) runs(plugin string) string {
	for _, l := range e.orders.upgrader.Status() {
		switch {
		case l.Name != plugin:
		case l.Canary != nil:
			return fmt.Sprintf("generation %d (%s) runs on %s, generation %d (%s) on the others", l.Canary.Generation,
				dash(l.Canary.Version), strings.Join(e.loaded(l.Canary).Volumes, ", "), l.Current.Generation, dash(l.Current.Version))
		default:
			return fmt.Sprintf("generation %d (%s) runs", l.Current.Generation, dash(l.Current.Version))
		}
	}
	return ""
}
