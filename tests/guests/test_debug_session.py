"""A guest's kernel debugger and root's side of it, over a debug channel: by hypercall and by MSR."""

from hv.image.load import load
from hv.platform import Machine
from hv.spec.partition import PARTITION_ID_SELF, HvPartitionProperty

TALKS = """
.include "lib/machine.inc"
.bits 64
.org 0x10000
.entry start
POST_DEBUG_DATA = 0x69
OUTPUT_CHARACTER = 0x71
FAST            = 1 << 16
CONTROL         = 0x400000F1            ; HV_X64_MSR_SYNDBG_*
STATUS          = 0x400000F2
SEND_BUFFER     = 0x400000F3
RECEIVE_BUFFER  = 0x400000F4
PENDING_BUFFER  = 0x400000F5
BUFFER          = 0x205000
PENDING         = 0x206000
start:
    call hypercall_init
    call clear_input
    mov edi, INPUT_PAGE                 ; eight bytes by hypercall
    mov dword ptr [rdi], 8
    mov rax, 0x203A74736575670A         ; "\\nguest: "
    mov [rdi + 8], rax
    mov ecx, POST_DEBUG_DATA
    call hypercall
    mov rcx, FAST | OUTPUT_CHARACTER    ; one character, without memory
    mov edx, '!'
    mov eax, HYPERCALL_PAGE
    call rax

    mov eax, PENDING                    ; and now the synthetic debugger
    mov ecx, PENDING_BUFFER
    call write
    mov eax, BUFFER
    mov ecx, SEND_BUFFER
    call write
    mov ecx, RECEIVE_BUFFER
    call write
.wait:
    pause
    cmp byte ptr [PENDING], 0           ; has root said anything?
    je .wait
    mov eax, 2                          ; receive
    mov ecx, CONTROL
    call write
    mov ecx, STATUS
    rdmsr
    shr eax, 16                         ; bytes received
    shl eax, 16
    or eax, 1                           ; send them back
    mov ecx, CONTROL
    call write
    mov ecx, STATUS
    rdmsr
    call print_dec
    jmp power_off
write:
    xor edx, edx
    wrmsr
    ret
.include "lib/serial64.inc"
.include "lib/hypercall64.inc"
"""


def test_a_guest_talks_to_its_debugger_and_is_answered(tmp_path):
    source = tmp_path / "talks.asm"
    source.write_text(TALKS)
    machine = Machine(memory_mib=24)
    try:
        vm = machine.create_vm("talks", load(str(source)), memory_mib=4)
        winhv = machine.root.winhv
        for partition_id in (vm.partition_id, PARTITION_ID_SELF):
            winhv.set_partition_property(partition_id, HvPartitionProperty.DEBUG_CHANNEL_ID, 1)
        machine.run(machine.clock.tsc + 2_000_000)
        assert winhv.retrieve_debug_data() == b"\nguest: !"
        assert winhv.post_debug_data(b"who is there?") == 0
        machine.run()
        assert winhv.retrieve_debug_data() == b"who is there?"
        assert (vm.ended, vm.serial) == ("shutdown", "1")
        winhv.set_partition_property(PARTITION_ID_SELF, HvPartitionProperty.DEBUG_CHANNEL_ID, 0)
    finally:
        machine.close()
