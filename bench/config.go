package main

import (
	"fmt"
	"path/filepath"
	"strings"
)

// engineConfig is what of engine.toml a measurement needs.
type engineConfig struct {
	poll    string // "": not written, so that the default is measured
	volumes []volumeConfig
}

// volumeConfig is a volume and an export of the same name. The plugin is
// memory, null, file, nbd, nbdwasm (the nbd plugin in its sandbox) or nullprocess
// (a null store in a process of its own).
type volumeConfig struct {
	name, plugin string
	vhostUser    bool   // the frontend, in place of nbd
	io           string // of plugin file; "": not written
	direct       bool   // of plugin file
}

// toml writes the configuration of an engine at a place.
func (c *engineConfig) toml(at place) string {
	var b strings.Builder
	fmt.Fprintf(&b, "[engine]\nstate_dir = %q\nhttp = \"\"\nlog_level = \"warn\"\n", filepath.Join(at.dir, "state"))
	if c.poll != "" {
		fmt.Fprintf(&b, "poll = %q\n", c.poll)
	}
	for _, v := range c.volumes {
		switch v.plugin {
		case "nbdwasm":
			fmt.Fprintf(&b, "\n[[plugin]]\nname = \"nbdwasm\"\nruntime = \"wasm\"\npath = %q\n", at.settings.wasm)
		case "nullprocess":
			fmt.Fprintf(&b, "\n[[plugin]]\nname = \"nullprocess\"\nruntime = \"process\"\npath = %q\n", at.settings.store)
		default:
			continue
		}
		break
	}
	for _, v := range c.volumes {
		v.toml(&b, at)
	}
	return b.String()
}

func (v volumeConfig) toml(b *strings.Builder, at place) {
	fmt.Fprintf(b, "\n[[volume]]\nname = %q\nplugin = %q\n[volume.options]\n", v.name, v.plugin)
	switch v.plugin {
	case "nbd", "nbdwasm":
		fmt.Fprintf(b, "export = \"disk\"\n[[volume.path]]\naddress = %q\n", "unix:"+at.backing)
	case "file":
		fmt.Fprintf(b, "path = %q\nsize = \"%dMiB\"\ndirect = %v\n", filepath.Join(at.disk, v.name), diskSize>>20, v.direct)
		if v.io != "" {
			fmt.Fprintf(b, "io = %q\n", v.io)
		}
	default:
		fmt.Fprintf(b, "size = \"%dMiB\"\n", diskSize>>20)
	}
	if v.vhostUser {
		fmt.Fprintf(b, "[[export]]\nname = %q\nvolume = %q\nfrontend = \"vhost-user-blk\"\nsocket = %q\n", v.name, v.name, at.socket())
		return
	}
	fmt.Fprintf(b, "[[export]]\nname = %q\nvolume = %q\nfrontend = \"nbd\"\nlisten = %q\n",
		v.name, v.name, "unix:"+at.socket())
}
