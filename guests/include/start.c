/* What stands below a guest in C: its first instruction, the IDT, printing, and what compilers take for granted. */
#include "hv.h"

#define IDT 0x60000UL                   /* 256 gates of 16 bytes; SDM "64-Bit Mode IDT" */

int main(void);

__attribute__((naked, section(".text.start"))) void start(void)
{
    __asm__ volatile("xor %ebp, %ebp\n\tcall main\n\tjmp finish");
}

__attribute__((used)) static void finish(void) { power_off(); }

void set_vector(u32 vector, void (*handler)(struct frame *))
{
    static struct __attribute__((packed)) { u16 limit; u64 base; } table = {4095, IDT};
    volatile u64 *gate = (volatile u64 *)(IDT + 16 * (vector & 255));
    u64 at = (u64)handler;
    gate[0] = (at & 0xFFFF) | 8UL << 16 | 0x8E00UL << 32 | (at >> 16 & 0xFFFF) << 48;
    gate[1] = at >> 32;
    __asm__ volatile("lidt %0" : : "m"(table));
}

void print(const char *text)
{
    while (*text)
        out8(COM1, (u8)*text++);
}

void print_hex(u64 value)
{
    int shift = 60;
    print("0x");
    while (shift && !(value >> shift))
        shift -= 4;
    for (; shift >= 0; shift -= 4)
        out8(COM1, (u8)"0123456789abcdef"[value >> shift & 15]);
}

void *memset(void *to, int value, u64 size)
{
    void *next = to;
    __asm__ volatile("rep stosb" : "+D"(next), "+c"(size) : "a"(value) : "memory");
    return to;
}

void *memcpy(void *to, const void *from, u64 size)
{
    void *next = to;
    __asm__ volatile("rep movsb" : "+D"(next), "+S"(from), "+c"(size) : : "memory");
    return to;
}
