package vmtest

import (
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// VhostUserBlk is a disk that somebody serves over a Unix socket.
type VhostUserBlk struct {
	Socket    string
	Listen    bool // QEMU makes the socket, and waits at its start until a server connects
	Queues    int  // 0: 1
	QueueSize int  // 0: QEMU's default, 128
}

// redial is how long QEMU waits before it connects again, in seconds.
const redial = 1

// diskProperties are those of QEMU's vhost-user-blk-pci.
type diskProperties struct {
	Driver    string `json:"driver"`
	ID        string `json:"id"`
	Chardev   string `json:"chardev"`
	Bus       string `json:"bus"`
	Queues    int    `json:"num-queues"`
	QueueSize int    `json:"queue-size,omitempty"`
}

// plug takes a free root port and gives the properties of a disk in it.
func (vm *VM) plug(d VhostUserBlk) diskProperties {
	vm.t.Helper()
	slot := slices.Index(vm.slots, "")
	if slot < 0 {
		vm.t.Fatalf("vmtest: all %d slots hold a disk", len(vm.slots))
	}
	id := "disk" + strconv.Itoa(vm.disks)
	vm.disks++
	vm.slots[slot] = id
	return diskProperties{
		Driver: "vhost-user-blk-pci", ID: id, Chardev: "chardev-" + id,
		Bus: "slot" + strconv.Itoa(slot), Queues: max(d.Queues, 1), QueueSize: d.QueueSize,
	}
}

func (vm *VM) diskArguments(d VhostUserBlk) []string {
	vm.t.Helper()
	p := vm.plug(d)
	device, err := json.Marshal(p)
	if err != nil {
		vm.t.Fatal("vmtest: ", err)
	}
	role := fmt.Sprintf("reconnect=%d", redial)
	if d.Listen {
		role = "server=on,wait=off" // the device waits
	}
	return []string{
		"-chardev", fmt.Sprintf("socket,id=%s,path=%s,%s", p.Chardev, d.Socket, role),
		"-device", string(device),
	}
}

// AddDisk plugs a disk into the running guest and gives its ID. The disks of
// [Options] are called disk0, disk1 and so on; numbers are not used again.
func (vm *VM) AddDisk(d VhostUserBlk) (id string) {
	vm.t.Helper()
	p := vm.plug(d)
	socket := map[string]any{
		"addr":   map[string]any{"type": "unix", "data": map[string]any{"path": d.Socket}},
		"server": d.Listen,
	}
	if d.Listen {
		socket["wait"] = false
	} else {
		socket["reconnect"] = redial
	}
	vm.QMP("chardev-add", map[string]any{"id": p.Chardev, "backend": map[string]any{"type": "socket", "data": socket}})
	vm.QMP("device_add", p)
	return p.ID
}

// RemoveDisk asks the guest to give a disk up and waits until QEMU has let go of
// it; then its server may end.
func (vm *VM) RemoveDisk(id string) {
	vm.t.Helper()
	slot := slices.Index(vm.slots, id)
	if slot < 0 {
		vm.t.Fatalf("vmtest: there is no disk %s", id)
	}
	vm.QMP("device_del", map[string]any{"id": id})
	vm.WaitEvent("DEVICE_DELETED", func(data json.RawMessage) bool {
		var gone struct {
			Device string `json:"device"`
		}
		return json.Unmarshal(data, &gone) == nil && gone.Device == id
	})
	vm.QMP("chardev-remove", map[string]any{"id": "chardev-" + id})
	vm.slots[slot] = ""
}

// Device waits until the guest has a disk and gives the kernel's name for it,
// e.g. "vda". It goes by the slot: names follow the order of discovery.
func (vm *VM) Device(id string) string {
	vm.t.Helper()
	slot := slices.Index(vm.slots, id)
	if slot < 0 {
		vm.t.Fatalf("vmtest: there is no disk %s", id)
	}
	glob := fmt.Sprintf("/sys/devices/pci0000:00/0000:00:%02x.0/*/virtio*/block/*", firstSlot+slot)
	seconds := int(vm.opts.Limit.Seconds())
	out := vm.MustRun(fmt.Sprintf(`
		i=0
		until set -- %s && [ -b "/dev/${1##*/}" ]; do
			i=$((i+1)); [ $i -lt %d ] || { echo "nothing in %s"; exit 1; }
			sleep 0.1
		done
		echo "${1##*/}"`, glob, 10*seconds, id))
	return strings.TrimSpace(out)
}
