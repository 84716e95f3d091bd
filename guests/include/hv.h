/* Words for guests in C: ports, MSRs, CPUID, the APIC, hypercalls, and where things are. There is no C library here.
 *
 * `#include "hv.h"`, write `int main(void)`, and run it: hv run program.c. When main returns the partition is switched
 * off. Code, constants and strings are at 0x10000, variables at 0x200000; both are below 64 MiB. The stack has 64 KiB.
 * Numbers are those of lib/machine.inc; docs/guests.md has the whole map. */
#ifndef HV_H
#define HV_H

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long u64;

#define COM1            0x3F8
#define POWER_PORT      0x604
#define POWER_OFF       0x2000
#define APIC            0xFEE00000UL    /* its registers, by offset */
#define APIC_ID         0x020
#define APIC_EOI        0x0B0
#define APIC_SVR        0x0F0
#define APIC_ICR_LOW    0x300
#define APIC_ICR_HIGH   0x310
#define APIC_LVT_TIMER  0x320
#define APIC_INITIAL    0x380
#define APIC_DIVIDE     0x3E0
#define INFO            ((const volatile u64 *)0x500)   /* BAR, MSI address, MSI data, own and other partition */

#define HYPERCALL_PAGE  0x61000UL       /* set by hypercall_init */
#define HV_GUEST_OS_ID  0x40000000
#define HV_HYPERCALL    0x40000001
#define HV_VP_INDEX     0x40000002
#define HV_TIME         0x40000020
#define HV_EOI          0x40000070
#define HV_SCONTROL     0x40000080
#define HV_SIEFP        0x40000082
#define HV_SIMP         0x40000083
#define HV_EOM          0x40000084
#define HV_SINT0        0x40000090

static inline void out8(u16 port, u8 value) { __asm__ volatile("outb %0, %1" : : "a"(value), "Nd"(port)); }
static inline void out16(u16 port, u16 value) { __asm__ volatile("outw %0, %1" : : "a"(value), "Nd"(port)); }
static inline void out32(u16 port, u32 value) { __asm__ volatile("outl %0, %1" : : "a"(value), "Nd"(port)); }
static inline u8 in8(u16 port) { u8 value; __asm__ volatile("inb %1, %0" : "=a"(value) : "Nd"(port)); return value; }

/* LEAF in EAX, SUBLEAF in ECX; ANSWER gets EAX, EBX, ECX, EDX. */
static inline void cpuid(u32 leaf, u32 subleaf, u32 answer[4])
{
    __asm__ volatile("cpuid" : "=a"(answer[0]), "=b"(answer[1]), "=c"(answer[2]), "=d"(answer[3])
                     : "a"(leaf), "c"(subleaf));
}

static inline u64 read_msr(u32 msr)
{
    u32 low, high;
    __asm__ volatile("rdmsr" : "=a"(low), "=d"(high) : "c"(msr));
    return (u64)high << 32 | low;
}

static inline void write_msr(u32 msr, u64 value)
{
    __asm__ volatile("wrmsr" : : "c"(msr), "a"((u32)value), "d"((u32)(value >> 32)) : "memory");
}

static inline u32 apic_read(u32 offset) { return *(volatile u32 *)(APIC + offset); }
static inline void apic_write(u32 offset, u32 value) { *(volatile u32 *)(APIC + offset) = value; }

static inline void enable_interrupts(void) { __asm__ volatile("sti" : : : "memory"); }
static inline void disable_interrupts(void) { __asm__ volatile("cli" : : : "memory"); }
static inline void pause_cpu(void) { __asm__ volatile("pause" : : : "memory"); }
static inline void wait_for_interrupt(void) { __asm__ volatile("sti\n\thlt" : : : "memory"); }
static inline void halt(void) { for (;;) __asm__ volatile("cli\n\thlt" : : : "memory"); }
static inline void power_off(void) { out16(POWER_PORT, POWER_OFF); halt(); }

/* Says who we are and asks for the hypercall page. TLFS "Establishing the Hypercall Interface". */
static inline void hypercall_init(void)
{
    write_msr(HV_GUEST_OS_ID, 0x8100000000010000UL);
    write_msr(HV_HYPERCALL, HYPERCALL_PAGE | 1);
}

/* CONTROL has the call code; INPUT and OUTPUT are guest-physical addresses, or the values of a fast call. */
static inline u64 hypercall(u64 control, u64 input, u64 output)
{
    u64 result;
    register u64 r8 __asm__("r8") = output;
    __asm__ volatile("call *%4" : "=a"(result), "+c"(control), "+d"(input), "+r"(r8) : "r"(HYPERCALL_PAGE)
                     : "memory", "r9", "r10", "r11", "cc");
    return result;
}

/* In start.c: an interrupt handler is `__attribute__((interrupt)) void name(struct frame *frame)`. */
struct frame { u64 rip, cs, rflags, rsp, ss; };
void set_vector(u32 vector, void (*handler)(struct frame *));   /* and loads the IDT */
void print(const char *text);
void print_hex(u64 value);
void *memset(void *to, int value, u64 size);
void *memcpy(void *to, const void *from, u64 size);

#endif
