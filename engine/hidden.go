package main

import (
	"path/filepath"

	"blockengine/engine/config"
	"blockengine/engine/pluginhost/sandbox"
)

// hidden are the files and sockets that no plugin's process has to see: the
// configuration, which may hold secrets of other plugins, and what leads to the
// engine, its guests, and other volumes' servers. The state directory is hidden
// in any case. It matters where the engine is not root, and processes have its user.
func hidden(cfg *config.Config) (list []string) {
	if file, err := filepath.Abs(cfg.File); err == nil {
		list = append(list, file)
	}
	unix := func(a config.Address) {
		if a.Network == "unix" {
			list = append(list, a.Addr)
		}
	}
	unix(cfg.Engine.Admin)
	for _, x := range cfg.Exports {
		unix(x.Listen)
		for _, path := range []string{x.Socket, x.Connect} {
			if path != "" {
				list = append(list, path)
			}
		}
	}
	for _, v := range cfg.Volumes {
		for _, p := range v.Paths {
			unix(p.Address)
		}
	}
	return list
}

// sandboxNotes say what this kernel or user does not let a plugin's sandbox have,
// if a plugin of the configuration is to run in one.
func sandboxNotes(cfg *config.Config) (notes []string) {
	for _, p := range cfg.Plugins {
		if p.Runtime != config.RuntimeProcess || sandbox.Mode(p.Sandbox) != sandbox.Strict {
			continue
		}
		for _, f := range sandbox.Probe() {
			if !f.OK {
				notes = append(notes, "plugins' processes: no "+f.Name+": "+f.Detail)
			}
		}
		return notes
	}
	return nil
}
