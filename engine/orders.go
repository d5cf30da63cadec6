package main

import (
	"context"
	"encoding/hex"
	"fmt"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"blockengine/engine/admin"
	"blockengine/engine/config"
	"blockengine/engine/pluginhost"
	"blockengine/engine/session"
)

// maxDrain is the longest that an order may have requests waited for.
const maxDrain = 10 * time.Minute

// orders is what the engine can be told to do while it runs.
type orders struct {
	ctx context.Context // ends what is under way
	end context.CancelFunc

	mu       sync.Mutex // guards what follows
	upgrader *pluginhost.Upgrader
	kept     map[string]kept // by plugin: what a restart loads by a drop-in
}

// kept is a drop-in as the next start will find it.
type kept struct {
	file   string
	source config.Source
}

func newOrders(cfg *config.Config) *orders {
	o := &orders{kept: map[string]kept{}}
	o.ctx, o.end = context.WithCancel(context.Background())
	for _, p := range cfg.Plugins {
		if p.DropIn != "" {
			o.kept[p.Name] = kept{p.DropIn, p.Source}
		}
	}
	return o
}

// get gives the upgrader, nil before the volumes have been opened.
func (o *orders) get() *pluginhost.Upgrader {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.upgrader
}

// takeOrders lets plugins be upgraded from now on.
func (e *engine) takeOrders() error {
	u, err := pluginhost.NewUpgrader(pluginhost.UpgraderOptions{Config: e.cfg, Registry: e.registry, Disks: e.disks,
		StateDir: e.state.path, Save: e.keep, Log: e.log})
	if err != nil {
		return err
	}
	e.orders.mu.Lock()
	defer e.orders.mu.Unlock()
	e.orders.upgrader = u
	return nil
}

// endOrders gives up what is under way, and waits for that until ctx ends.
func (e *engine) endOrders(ctx context.Context) {
	e.orders.end()
	if u := e.orders.get(); u != nil {
		u.Close(ctx)
	}
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
	s := sourceOf(p)
	file, err := e.cfg.Keep(p.Name, s, "engine "+version+", told so with --save", time.Now())
	if err != nil {
		return fmt.Errorf("keep plugin %q for a restart: %w", p.Name, err)
	}
	e.orders.mu.Lock()
	defer e.orders.mu.Unlock()
	delete(e.orders.kept, p.Name)
	if file != "" {
		e.orders.kept[p.Name] = kept{file, s}
	}
	return nil
}

// Upgrade implements admin.Source.
func (e *engine) Upgrade(plugin string, r admin.UpgradeRequest, report func(admin.Event)) error {
	req, err := upgradeRequest(plugin, r)
	if err != nil {
		return err
	}
	u, err := e.commanded(plugin, r.Volumes)
	if err != nil {
		return err
	}
	return u.Upgrade(e.orders.ctx, req, func(n pluginhost.Event) { report(eventOf(n)) })
}

// Rollback implements admin.Source.
func (e *engine) Rollback(plugin string, r admin.RollbackRequest, report func(admin.Event)) error {
	drain, err := checkHow(r.Method, r.Drain)
	if err != nil {
		return err
	}
	u, err := e.commanded(plugin, r.Volumes)
	if err != nil {
		return err
	}
	return u.Rollback(e.orders.ctx, pluginhost.RollbackRequest{Plugin: plugin, Volumes: r.Volumes, Method: r.Method,
		Drain: drain, Save: r.Save}, func(n pluginhost.Event) { report(eventOf(n)) })
}

// commanded gives the upgrader for an order about a plugin and some of its
// volumes. The error is *admin.Refusal.
func (e *engine) commanded(plugin string, volumes []string) (*pluginhost.Upgrader, error) {
	u := e.orders.get()
	switch {
	case e.draining.Load():
		return nil, admin.Refuse(http.StatusServiceUnavailable, "the engine is ending")
	case u == nil:
		return nil, admin.Refuse(http.StatusServiceUnavailable, "the engine is still starting: try again when it is ready")
	case e.registry.Find(plugin) == nil:
		return nil, admin.Refuse(http.StatusNotFound, "no plugin %q is loaded: there are %s", plugin, e.pluginNames())
	}
	of := e.volumesOn(plugin)
	for _, v := range volumes {
		if !slices.Contains(of, v) {
			return nil, admin.Refuse(http.StatusBadRequest, "volume %q does not use plugin %q: those that do are %s",
				v, plugin, dash(strings.Join(of, ", ")))
		}
	}
	return u, nil
}

func (e *engine) pluginNames() string {
	var names []string
	for _, p := range e.registry.Plugins() {
		names = append(names, p.Name)
	}
	return dash(strings.Join(names, ", "))
}

// volumesOn are the volumes of a plugin, whichever generation they run.
func (e *engine) volumesOn(plugin string) (names []string) {
	for _, d := range e.disks {
		if d.Config.Plugin == plugin {
			names = append(names, d.Config.Name)
		}
	}
	return names
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

func eventOf(n pluginhost.Event) admin.Event {
	return admin.Event{Time: n.Time, Phase: string(n.Phase), Plugin: n.Plugin, Volume: n.Volume, Method: n.Method,
		Pause: n.Pause.Seconds(), Text: n.Text}
}
