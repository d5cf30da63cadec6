package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"

	"github.com/spf13/cobra"

	"blockengine/engine/config"
	"blockengine/frontends/nbdkernel"
	"blockengine/frontends/ublk"
)

// foundDevice is a device of this host, or the memory of one.
type foundDevice struct {
	Number      int    `json:"number"` // -1: the kernel has it no more
	Path        string `json:"path,omitempty"`
	State       string `json:"state"`
	PID         int    `json:"pid,omitempty"` // of the process that serves it
	UID         uint32 `json:"uid,omitempty"` // of who has made it, as a udev rule for unprivileged devices asks
	GID         uint32 `json:"gid,omitempty"`
	Export      string `json:"export,omitempty"`
	Volume      string `json:"volume,omitempty"`
	Identity    string `json:"identity,omitempty"`
	Size        uint64 `json:"size"` // bytes
	Queues      int    `json:"queues,omitempty"`
	Depth       int    `json:"depth,omitempty"`
	Recoverable bool   `json:"recoverable"`
}

// driverCommands are how one of the kernel's drivers is asked.
type driverCommands struct {
	name, about, prefix string
	list                func(ctx context.Context, stateDir string) ([]foundDevice, error)
	remove              func(ctx context.Context, stateDir string, number int) error
	forget              func(stateDir, export string) error
}

var ublkCommands = driverCommands{
	name: "ublk", about: "Devices of frontend ublk: also those that no engine serves", prefix: "/dev/ublkb",
	list: func(ctx context.Context, dir string) (all []foundDevice, err error) {
		found, err := ublk.List(ctx, dir)
		for _, f := range found {
			all = append(all, foundDevice{Number: f.ID, Path: f.Path, State: f.State, PID: f.Server, UID: f.UID, GID: f.GID, Export: f.Name, Volume: f.Volume,
				Identity: f.Identity, Size: f.Size, Queues: f.Queues, Depth: f.Depth, Recoverable: f.Recoverable})
		}
		return all, err
	},
	remove: ublk.Delete, forget: ublk.Forget,
}

var nbdKernelCommands = driverCommands{
	name: "nbd-kernel", about: "Devices of frontend nbd-kernel: also those that no engine serves", prefix: "/dev/nbd",
	list: func(ctx context.Context, dir string) (all []foundDevice, err error) {
		found, err := nbdkernel.List(ctx, dir)
		for _, f := range found {
			all = append(all, foundDevice{Number: f.Number, Path: f.Path, State: f.State, Export: f.Name, Volume: f.Volume,
				Identity: f.Identity, Size: f.Size, Queues: f.Connections, Recoverable: f.Recoverable})
		}
		return all, err
	},
	remove: nbdkernel.Delete, forget: nbdkernel.Forget,
}

func deviceCommand(d *driverCommands) *cobra.Command {
	return group(d.name, d.about, d.listCommand(), d.recoverCommand(), d.deleteCommand())
}

// stateDirOf is where an engine remembers its devices: the one of the
// configuration that is named, or is here, or else this user's default.
func stateDirOf(file string) (string, error) {
	if file == "" {
		if _, err := os.Stat(defaultFile); errors.Is(err, os.ErrNotExist) {
			return config.DefaultStateDir(), nil
		}
		file = defaultFile
	}
	cfg, err := config.Load(file) // somebody may be editing it; where the engine is it still says
	if cfg == nil {
		return "", err
	}
	return cfg.Engine.StateDir, nil
}

func stateFlag(cmd *cobra.Command, file *string) {
	cmd.Flags().StringVarP(file, "config", "c", "", "configuration `file` of the engine (default "+defaultFile+", if there is one)")
}

func (d *driverCommands) listCommand() *cobra.Command {
	var file string
	var asJSON bool
	cmd := &cobra.Command{Use: "list", Short: "List the host's devices, and what is remembered of others", Args: noArgs,
		RunE: does(func(cmd *cobra.Command, _ []string) error {
			dir, err := stateDirOf(file)
			if err != nil {
				return err
			}
			all, err := d.list(cmd.Context(), dir)
			if err != nil {
				return err
			}
			if asJSON {
				return printJSON(cmd.OutOrStdout(), append([]foundDevice{}, all...))
			}
			return tableDevices(cmd.OutOrStdout(), all)
		})}
	stateFlag(cmd, &file)
	jsonFlag(cmd, &asJSON)
	return cmd
}

func tableDevices(to io.Writer, all []foundDevice) error {
	w := newTable(to)
	fmt.Fprintln(w, "DEVICE\tSTATE\tSIZE\tQUEUES\tDEPTH\tPID\tEXPORT\tVOLUME\tRECOVERABLE")
	for _, f := range all {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", dash(f.Path), f.State, sizeText(f.Size), orDash(f.Queues), orDash(f.Depth),
			orDash(f.PID), dash(f.Export), dash(f.Volume), yes(f.Recoverable))
	}
	return w.Flush()
}

func orDash(n int) string {
	if n <= 0 {
		return "-"
	}
	return strconv.Itoa(n)
}

func (d *driverCommands) recoverCommand() *cobra.Command {
	var t target
	cmd := &cobra.Command{Use: "recover EXPORT", Short: "Have a running engine try once more to serve an export that could not come up",
		Args: oneArg("EXPORT"), RunE: does(func(cmd *cobra.Command, args []string) error {
			client, err := t.client()
			if err != nil {
				return err
			}
			if err := client.Recover(cmd.Context(), args[0]); err != nil {
				return err
			}
			s, err := client.Status(cmd.Context())
			if err != nil {
				return err
			}
			for _, x := range s.Exports {
				if x.Name == args[0] && x.Device != nil {
					fmt.Fprintf(cmd.OutOrStdout(), "export %q: %s, %s\n", x.Name, x.Device.Path, x.Device.State)
				}
			}
			return nil
		})}
	t.flags(cmd)
	return cmd
}

func (d *driverCommands) deleteCommand() *cobra.Command {
	var file string
	var asJSON bool
	cmd := &cobra.Command{Use: "delete NUMBER|EXPORT", Short: "Remove a device, whoever made it; what uses it gets errors",
		Args: oneArg("NUMBER|EXPORT"), RunE: does(func(cmd *cobra.Command, args []string) error {
			dir, err := stateDirOf(file)
			if err != nil {
				return err
			}
			f, err := d.find(cmd.Context(), dir, args[0])
			if err != nil {
				return err
			}
			if f.Number >= 0 {
				err = d.remove(cmd.Context(), dir, f.Number)
			} else {
				err = d.forget(dir, f.Export)
			}
			if err != nil || !asJSON {
				return err
			}
			return printJSON(cmd.OutOrStdout(), f)
		})}
	stateFlag(cmd, &file)
	jsonFlag(cmd, &asJSON)
	return cmd
}

// find looks for the device that an operator has named: by its number or path, or
// by the export that it is remembered for.
func (d *driverCommands) find(ctx context.Context, dir, name string) (*foundDevice, error) {
	all, err := d.list(ctx, dir)
	if err != nil {
		return nil, err
	}
	for i := range all {
		f := &all[i]
		if f.Export != "" && f.Export == name || f.Number >= 0 && (name == strconv.Itoa(f.Number) || name == f.Path) {
			return f, nil
		}
	}
	return nil, fmt.Errorf("there is no device %q: engine %s list shows those there are", name, d.name)
}
