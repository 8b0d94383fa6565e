"""The words that the preview engine knows, English and Chinese, and what each tells of the picture.

Examples
--------
>>> MEANINGS["beach"], MEANINGS["沙滩"]
((('scene', 'beach'),), (('scene', 'beach'),))
>>> MEANINGS["cyberpunk"]
(('hint', 'city'), ('hour', 'night'), ('style', 'vivid'))
"""

from __future__ import annotations

from typing import Final

# A feature ("kind.value"), then its words. A word may stand for several features; hints are scenes that count only
# where the prompt names none.
_TABLE: Final = """
scene.beach: beach sand sandy shore coast palm seaside hawaii sandcastle
    沙滩 海滩 海岸 海边 椰 冲浪
scene.sea: sea ocean boat ship sail sailing sailor harbor harbour wave pirate lighthouse island whale fjord
    大海 海洋 海 船 帆 港 灯塔 浪 岛
scene.underwater: underwater coral reef aquarium dive diving diver mermaid fish jellyfish submarine
    海底 水下 珊瑚 潜水 水族 美人鱼 鱼
scene.mountain: mountain mountains alps peak hill hiking cliff valley canyon volcano
    山 峰 岭 峡谷 悬崖 火山
scene.lake: lake river pond stream reflection waterfall
    湖 河 溪 池塘 瀑布 江 倒影
scene.snow: snow snowy ice icy ski skiing arctic polar glacier igloo
    雪 冰 滑雪 极地
scene.forest: forest wood woods woodland jungle tree pine bamboo rainforest
    森林 树 林 丛林 竹 松
scene.desert: desert dune sahara cactus oasis mesa camel egypt pyramid
    沙漠 沙丘 仙人掌 绿洲 骆驼 戈壁 金字塔
scene.city: city street town urban skyline skyscraper downtown rooftop tokyo shanghai
    paris london market
    城 街 都市 高楼 上海 东京 北京 屋顶
scene.cafe: cafe restaurant bar indoor indoors room kitchen library bookshop bookstore office
    studio home bakery classroom
    咖啡 餐厅 室内 房间 厨房 图书馆 书店 办公室 家里 教室 面包店
scene.space: space astronaut planet galaxy cosmos cosmic spaceship mars moonwalk nebula
    universe orbit
    太空 宇宙 行星 星球 银河 星系 宇航员 航天 飞船 火星 月球 星云
scene.meadow: meadow field garden grass farm countryside prairie picnic park lavender
    sunflower tulip
    草地 草原 花园 田 农场 公园 野餐
scene.sky: sky airship heaven aviator pilot
    天空 飞艇 天堂
scene.village: village castle cottage house temple kingdom fairytale medieval hut
    村 城堡 小屋 房子 寺 庙 宫 童话 小镇 古镇
hint.beach: tropical surf surfing summer vacation holiday
    夏 度假
hint.snow: winter frozen christmas cold
    冬 圣诞 寒
hint.meadow: spring blossom sakura cherry flower butterfly picnic
    春 樱 花 蝴蝶
hint.forest: autumn maple mushroom fairy deer
    秋 枫 落叶 蘑菇 精灵
hint.village: lantern festival halloween dragon
    灯笼 节日 龙
hint.city: neon cyberpunk robot car rain umbrella
    霓虹 赛博朋克 机器人 汽车 雨 伞
hint.cafe: coffee tea cake reading writing
    茶 蛋糕 读书 写
hint.sky: cloud balloon kite fly flying bird superhero
    云 气球 飞 风筝 鸟 超人
hint.space: alien rocket
    火箭 外星
hint.sea: fishing pirate
    海盗 钓鱼
hour.dawn: dawn sunrise morning daybreak
    黎明 日出 早晨 清晨 晨 朝霞
hour.day: day daylight noon midday sunny sunlight sunshine bright afternoon summer
    白天 中午 正午 晴 阳光 下午 夏
hour.sunset: sunset golden evening
    日落 夕阳 黄昏 晚霞 落日 金色
hour.dusk: dusk twilight
    暮 傍晚 薄暮
hour.night: night midnight moon moonlight moonlit star stars starry dark neon cyberpunk firework lantern
    halloween aurora
    夜 星空 月 深夜 午夜 霓虹 赛博朋克 极光 烟花 星星 灯笼 萤火虫 黑暗
weather.rain: rain rainy raining rainstorm storm stormy thunder umbrella drizzle
    雨 雷 伞
weather.snow: snowing snowfall snowy snow blizzard christmas
    雪 圣诞
weather.fog: fog foggy mist misty haze smoke mysterious
    雾 霭 烟 朦胧
weather.petals: blossom petal sakura cherry confetti romantic wedding
    花瓣 樱 桃花 浪漫 婚礼
weather.fireflies: firefly fireflies magic magical fairy enchanted dreamy dream glowing
    萤火虫 魔法 精灵 梦 奇幻 仙
sight.aurora: aurora northern
    极光
sight.rainbow: rainbow unicorn
    彩虹 独角兽
sight.fireworks: firework celebration celebrating birthday
    烟花 庆祝 生日 新年
sight.balloons: balloon airship adventure
    气球 飞艇 冒险
sight.birds: bird seagull crane goose geese eagle
    鸟 海鸥 鹤 雁 鹰
season.autumn: autumn fall maple october halloween
    秋 枫 落叶
season.spring: spring blossom sakura cherry
    春 樱 桃花
season.winter: winter snow snowy christmas frozen
    冬 雪 圣诞
frame.close: close closeup close-up portrait headshot selfie face macro bust
    特写 近景 半身 头像 肖像 自拍
frame.wide: wide wide-angle panorama panoramic distant aerial vast tiny epic landscape
    全景 远景 广角 辽阔 遥远 宏大 渺小
frame.left: left
    左
frame.right: right
    右
frame.centre: centre center centered centred symmetrical middle
    居中 中央 中间 对称
frame.air: flying fly floating float levitating jumping jump hovering swimming
    飞 漂浮 悬浮 跳 游泳
style.ink: monochrome noir black-and-white grayscale greyscale sketch ink charcoal
    黑白 水墨 素描 墨
style.film: vintage retro film nostalgic polaroid sepia old-fashioned
    复古 胶片 怀旧 老照片
style.vivid: vivid neon vibrant colorful colourful pop cyberpunk anime cartoon
    鲜艳 霓虹 多彩 赛博朋克 动漫 卡通
style.soft: pastel soft watercolor watercolour gentle cute dreamy
    柔和 水彩 可爱 温柔 粉彩
tint.0: red crimson scarlet ruby
    红 赤
tint.30: orange amber copper
    橙 橘
tint.52: yellow gold
    黄 金
tint.120: green emerald jade lime
    绿 翠
tint.185: cyan turquoise teal aqua
    青
tint.215: blue azure sapphire
    蓝
tint.275: purple violet lilac
    紫
tint.330: pink rose magenta
    粉 玫瑰
"""


def _meanings() -> dict[str, tuple[tuple[str, str], ...]]:
    meanings: dict[str, tuple[tuple[str, str], ...]] = {}
    feature = ("", "")
    for word in _TABLE.split():
        if word.endswith(":"):
            kind, value = word.removesuffix(":").split(".")
            feature = kind, value
        else:
            meanings[word] = (*meanings.get(word, ()), feature)
    return meanings


MEANINGS: Final = _meanings()
SCENES: Final = tuple(
    sorted({value for meaning in MEANINGS.values() for kind, value in meaning if kind == "scene"})
)
