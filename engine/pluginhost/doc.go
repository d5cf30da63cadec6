// Package pluginhost knows which plugins are loaded and opens volumes on them.
// A Registry loads each plugin that the configuration names once, whatever its
// runtime, for all volumes that use it; a Disk is one configured volume on its
// way to being open, and stays with it until it is closed.
//
// It knows the configuration, both plugin contracts and sessions. It must not
// know frontends, nor any plugin by name: whoever makes the Registry says which
// ones are builtin.
//
// Read first: registry.go, then disk.go.
package pluginhost
